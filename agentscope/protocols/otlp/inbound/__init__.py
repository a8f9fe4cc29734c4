"""The decoding of spans of any emitter into events."""
