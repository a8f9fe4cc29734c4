"""The `agentscope` command: one module each for demo, serve, check and replay."""
