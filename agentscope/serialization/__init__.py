"""Snapshots: bounded JSON of any Python value, taken at the call."""
