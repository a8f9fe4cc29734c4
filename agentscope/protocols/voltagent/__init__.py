"""VoltAgent: OTLP where the backend takes it, the history calls everywhere else."""
