"""Spans of any emitter, read as events."""
