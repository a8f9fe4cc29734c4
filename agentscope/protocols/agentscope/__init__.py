"""The AgentScope protocols: batch and classic."""
