"""The encoding of events as spans."""
