"""`python -m agentscope` is the `agentscope` command."""

from __future__ import annotations

import sys

from agentscope.cli.main import main

sys.exit(main())
