"""Integrations with other libraries, one module a library. Each needs that library; importing this package needs none."""
