"""What a process that is measured knows of itself, and is told before it begins."""

from __future__ import annotations

import gc
import resource
import socket
import sys
from typing import Any

HOST = "backend.example"
MiB = 1 << 20


def block(modules: tuple[str, ...]) -> None:
    """Let `import` of these modules fail as if they were not installed."""
    for name in modules:
        sys.modules[name] = None  # type: ignore[assignment]  # which is how `import` is told that there is none


def name_the_backend() -> None:
    """Let `HOST` be this machine. Loopback stands for a network, and this SDK does not compress what stays on its machine."""
    resolve = socket.getaddrinfo

    def resolved(host: Any, *arguments: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if host == HOST else host, *arguments, **options)

    socket.getaddrinfo = resolved


def cpu_seconds() -> float:
    """Of this process, in user and system mode, all threads together."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Memory:
    """Growth of the resident memory since this was made, at its peak. Linux; elsewhere the peak since the process began."""

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
