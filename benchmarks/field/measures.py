"""The measures: which work is done against which backend, by whom, and how often. What they come to is `rows`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.field.adapters import EVERYBODY, OWN

BEST = (*OWN, "otel", "libhoney")
"""This SDK, and those that the targets compare it with."""


@dataclass(frozen=True)
class Work:
    """One program of a measure, as `worker` gets it.

    kind: what is done, by `worker`, `running` or `alone`. runs, steps, threads, pause, every: the load; see `load.Load`.
    backend: how it behaves after a healthy start, one of `STATES`. flush: whether the program waits for delivery.
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
        """The same with `share` of the runs; an exit needs all of its 200 steps, and an import is short as it is."""
        if self.kind in ("leave", "import"):
            return self
        return replace(self, runs=max(self.threads, int(self.runs * share)))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Measure:
    """work: what each subject does. subjects: who is measured, where installed.

    rounds: no more of them than so many, for what takes long. peer_rounds: likewise, for peers only. limit: seconds after
    which a program is ended.
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
"""How a backend may behave."""
QUICK = 0.05
"""The share of the work that the quick version does: enough to see that everything works."""
