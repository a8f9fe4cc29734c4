"""The AgentScope face: trackers, runs and steps."""
