"""Redaction: secrets are masked before an event reaches the disk or the network."""
