"""The two encodings of OTLP, protobuf and JSON."""
