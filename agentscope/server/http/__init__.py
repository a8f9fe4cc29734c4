"""HTTP around the receiver: bodies, connections, limits, security."""
