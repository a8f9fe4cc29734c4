"""Wire formats without I/O. Protocols make requests and read responses; exporters send them."""
