"""Ingest: one module a protocol, and the intake that they share."""
