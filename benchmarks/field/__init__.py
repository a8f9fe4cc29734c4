"""The measurement of this SDK and its peers at the same work; `python -m benchmarks` is the command."""
