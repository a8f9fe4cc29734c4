"""The measures: the work, the state of the backend, the SDKs and the number of rounds. `rows` holds the targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.field.adapters import EVERYBODY, OWN

BEST = (*OWN, "otel", "libhoney")
"""This SDK, and the peers that the targets name."""


@dataclass(frozen=True)
class Work:
    """The work of one measured program.

    kind: the function that does it, in `worker`, `runner` or `without_sink`. runs, steps, threads, pause, every: the load; see
    `load.Load`. backend: its state after a healthy start, one of `STATES`. flush: True if the program waits for delivery.
    """

    kind: str
    runs: int = 0
    steps: int = 10
    threads: int = 1
    pause: float = 0.0
    every: float = 0.0
    size: str = "1k"
    backend: str = "ok"
    flush: bool = True

    def smaller(self, share: float) -> Work:
        """The same work with `share` of the runs. Exits need all of their 200 steps, and imports are short."""
        if self.kind in ("leave", "import"):
            return self
        return replace(self, runs=max(self.threads, int(self.runs * share)))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Measure:
    """work: what each subject does. subjects: the measured SDKs, if installed.

    rounds: the most rounds, for work that takes long. peer_rounds: the most rounds of peers. limit: seconds after which a
    program is killed.
    """

    work: Work
    subjects: tuple[str, ...] = EVERYBODY
    rounds: int = 100
    peer_rounds: int = 100
    limit: float = 150.0


MEASURES: Mapping[str, Measure] = {
    "paced": Measure(Work("load", runs=200, pause=0.001), ("nothing", "agentscope-plain", *EVERYBODY)),
    "large": Measure(Work("load", runs=20, pause=0.005, size="100k")),
    "burst": Measure(Work("load", runs=2_000), ("nothing", *EVERYBODY)),
    "burst4": Measure(Work("load", runs=2_000, threads=4), ("nothing", *EVERYBODY)),
    "slow": Measure(Work("load", runs=300, every=0.001, backend="delay")),
    "gone": Measure(Work("load", runs=6_000, backend="gone", flush=False), BEST, peer_rounds=1),
    "calm": Measure(Work("beside", runs=200, pause=0.001, flush=False), OWN),
    "exit_ok": Measure(Work("leave", runs=20), ("nothing", *EVERYBODY)),
    "exit_hang": Measure(Work("leave", runs=20, backend="hang"), EVERYBODY, peer_rounds=1, limit=30.0),
    "exit_gone": Measure(Work("leave", runs=20, backend="gone"), EVERYBODY, peer_rounds=1, limit=30.0),
    "import": Measure(Work("import", runs=5), EVERYBODY),
    "first": Measure(Work("first"), EVERYBODY),
    "gil": Measure(Work("probe", runs=200), BEST),
    "growth": Measure(Work("growth", runs=100), OWN, rounds=2),
    "lengths": Measure(Work("lengths", runs=2_000), OWN, rounds=2),
    "receiver": Measure(Work("receiver", runs=10_000), ("receiver",), rounds=1),
}
STATES = ("ok", "delay", "hang", "gone")
"""States of a backend: healthy, slow, without answers, refusing connections."""
QUICK = 0.05
"""The share of the work that --quick does: enough to see that everything works."""
