"""Set-up and resource use of the measured process."""

from __future__ import annotations

import gc
import resource
import socket
import sys
from typing import Any

HOST = "backend.example"
MiB = 1 << 20


def block(modules: tuple[str, ...]) -> None:
    """Make imports of these modules fail as if they were not installed."""
    for name in modules:
        sys.modules[name] = None  # type: ignore[assignment]  # None makes `import` raise


def name_the_backend() -> None:
    """Resolve `HOST` to loopback. Loopback stands for a network here, and this SDK does not compress for loopback addresses."""
    resolve = socket.getaddrinfo

    def resolved(host: Any, *arguments: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if host == HOST else host, *arguments, **options)

    socket.getaddrinfo = resolved


def cpu_seconds() -> float:
    """CPU seconds of this process, in user and system mode, for all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Memory:
    """The peak growth of resident memory since this object was made. Outside Linux: the peak of the process."""

    def __init__(self) -> None:
        gc.collect()
        try:
            with open("/proc/self/clear_refs", "w") as control:
                control.write("5")
        except OSError:
            pass
        self._before = self._kilobytes("VmRSS")

    def peak_mb(self) -> float:
        return (self._kilobytes("VmHWM") - self._before) * 1024 / MiB

    @staticmethod
    def _kilobytes(name: str) -> float:
        try:
            with open("/proc/self/status") as status:
                return next(float(line.split()[1]) for line in status if line.startswith(name + ":"))
        except OSError:
            return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
