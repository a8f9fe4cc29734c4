"""The pipeline from the queue to the ledger, and the thread that works on it."""
