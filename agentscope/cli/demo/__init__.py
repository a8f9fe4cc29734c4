"""`agentscope demo`: a sample agent on real files, recorded, delivered and shown."""

from .show import run_demo

__all__ = ["run_demo"]
