"""Wire formats without I/O: requests are made and responses are read, by others they are sent."""
