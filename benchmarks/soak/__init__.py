"""The soak test: producers and a receiver are killed at random behind a faulty network, and no promised event may be missing."""
