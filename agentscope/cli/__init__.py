"""The `agentscope` command: one module (or folder) per subcommand, and `main`, which lists them."""
