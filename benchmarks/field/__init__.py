"""The field: this SDK and its peers do the same work beside each other; `python -m benchmarks` is the command."""
