"""Entry point of `python -m agentscope`, the same as the `agentscope` command."""

from __future__ import annotations

import sys

from agentscope.cli.main import main

sys.exit(main())
