"""`agentscope demo`: a sample agent on real files, recorded, delivered and shown."""

from .command import HELP, add_arguments, run

__all__ = ["HELP", "add_arguments", "run"]
