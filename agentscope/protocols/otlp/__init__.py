"""OTLP over HTTP, in protobuf and in JSON."""
