"""The VoltAgent history protocol."""
