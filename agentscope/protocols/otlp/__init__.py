"""OTLP over HTTP: both encodings, the mapping to and from our events, and the client's side as a wire protocol."""
