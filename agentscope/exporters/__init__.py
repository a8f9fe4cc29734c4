"""Destinations: one module each, and what they share."""
