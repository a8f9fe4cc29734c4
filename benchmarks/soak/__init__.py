"""The soak: producers and a receiver are killed at random behind a network that breaks, and nothing promised may be missing."""
