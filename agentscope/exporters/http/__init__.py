"""HTTP for the exporters that send requests: attempts, connections, deadlines."""
