"""What the sample agent can do with a directory: list it and read its text files, within bounds, whatever is in there.

Symbolic links, other file systems, hidden entries and key files are left alone; nothing is ever written.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

SKIPPED_DIRECTORIES = frozenset(
    {"node_modules", "site-packages", "__pycache__", "venv", "env", "build", "dist", "target"}
)
PRIVATE_SUFFIXES = (".pem", ".key", ".p12", ".pfx", ".kdbx", ".keystore")

MAX_ENTRIES = 5_000
MAX_FILES = 300
MAX_BYTES_A_FILE = 32 * 1024
MAX_BYTES = 1 << 20
MAX_DEPTH = 8
MAX_SECONDS = 0.4


@dataclass
class Listing:
    """The files found, nearest first, and how many entries were left out by reason."""

    files: list[str] = field(default_factory=list)
    """Paths relative to the root, as the operating system gives them."""
    bytes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    complete: bool = True
    """False when a bound ended the walk."""


def list_files(root: str, now: Callable[[], float] = time.monotonic) -> Listing:
    """Walk `root` breadth first, within bounds of entries, files, depth and time."""
    listing = Listing()
    deadline = now() + MAX_SECONDS
    device = os.stat(root).st_dev
    waiting = deque([("", 0)])
    seen = 0
    while waiting:
        folder, depth = waiting.popleft()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    seen += 1
                    if seen > MAX_ENTRIES or len(listing.files) >= MAX_FILES or now() > deadline:
                        listing.complete = False
                        listing.files.sort(key=_nearest_first)
                        return listing
                    try:
                        reason = _look_at(entry, folder, depth, device, waiting, listing)
                    except OSError:
                        reason = "unreadable"
                    if reason:
                        listing.skipped[reason] += 1
        except OSError:
            listing.skipped["unreadable"] += 1
    listing.files.sort(key=_nearest_first)
    return listing


def _nearest_first(path: str) -> tuple[int, str]:
    return path.count(os.sep), path


def _look_at(
    entry: os.DirEntry[str], folder: str, depth: int, device: int, waiting: deque[tuple[str, int]], listing: Listing
) -> str | None:
    path = os.path.join(folder, entry.name)
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_symlink():
        return "link"
    status = entry.stat(follow_symlinks=False)
    if entry.is_dir(follow_symlinks=False):
        if entry.name in SKIPPED_DIRECTORIES:
            return "generated"
        if status.st_dev != device:
            return "other file system"
        if depth >= MAX_DEPTH:
            return "too deep"
        waiting.append((path, depth + 1))
        return None
    if not entry.is_file(follow_symlinks=False):
        return "not a file"
    if status.st_size == 0:
        return "empty"
    if entry.name.lower().endswith(PRIVATE_SUFFIXES) or entry.name.startswith("id_"):
        return "private"
    listing.files.append(path)
    listing.bytes += status.st_size
    return None


def read_text(root: str, path: str) -> str:
    """The beginning of a text file. Raises `OSError` when it cannot be read, `ValueError` when it is not text."""
    with open(os.path.join(root, path), "rb") as file:
        data = file.read(MAX_BYTES_A_FILE)
    if b"\0" in data:
        raise ValueError("not a text file")
    text = data.decode("utf-8", "replace")
    if text.count("�") > len(text) // 10:
        raise ValueError("not a text file")
    return text


def shown(path: str) -> str:
    """A path as text that any terminal and any JSON takes: what is not UTF-8 becomes the replacement character."""
    return os.fsencode(path).decode("utf-8", "replace")
