"""Integrations, one module per library. Each module imports its library; this package imports none."""
