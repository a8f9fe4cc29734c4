"""Bodies that hold many events, as they are sent: how they are compressed, and how large they may be, is learnt of a backend."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from .base import Response

SMALLEST_COMPRESSED = 1024
"""Below this many bytes compression costs more than it saves."""
SMALLEST_TIMELY = 128 * 1024
"""Bodies are not made smaller than this because the backend is slow."""


class PieceState:
    """What is learnt of a backend's call for batches, for as long as the process lives."""

    def __init__(self, compress: bool, largest_body: int) -> None:
        self.compress = compress
        self.encoding: str | None = "gzip" if compress else None
        """How bodies are compressed, until the backend has announced something else or refuses it."""
        self.proven = False
        """The backend has taken a compressed body."""
        self._doubted: str | None = None
        """What was not used for the newest body, since it is in doubt."""
        self.accepted = 0
        """Events that were stored so far: the sign that others get through while one does not."""
        self.largest_body = largest_body
        """Pieces of several events are kept under this."""
        self.timely_body = largest_body
        """And under this: the backend should answer in time, over a slow line, too."""
        self.confirmed = False
        """The call has been acknowledged before: a 404 now is more likely a proxy's than the backend's."""
        self.absences = 0
        """Answers of 404 or 405 in a row."""

    def warm_up(self) -> None:
        """Import the compressor, if it may be used."""
        if self.compress:
            _zstandard()

    def learn(self, response: Response) -> None:
        """A receiver announces what it can decode by `Accept-Encoding` in its answers (RFC 7694)."""
        announced = response.headers.get("accept-encoding")
        if self.compress and announced is not None and response.status != 415:
            known = {name.split(";")[0].strip() for name in announced.lower().split(",")}
            if "zstd" in known and _zstandard() is not None:
                self.encoding = "zstd"
            else:
                self.encoding = "gzip" if "gzip" in known else None
            self.proven = self.encoding is not None

    def too_slow(self, size: int) -> None:
        """The time was over before a body of several events was answered, whose items take `size` bytes."""
        self.timely_body = max(size // 2, SMALLEST_TIMELY)

    def took(self, compressed: bool) -> None:
        """A body was accepted."""
        self.timely_body = min(self.timely_body + self.timely_body // 8, self.largest_body)
        self.proven = self.proven or compressed
        self._doubted = None

    def doubts(self, compressed: bool) -> bool:
        """Whether a body was perhaps refused for its compression: then it is to be sent again without.

        That is asked until a compressed one has been accepted. What is refused without as well is itself at fault.
        """
        if compressed and not self.proven:
            self._doubted, self.encoding = self.encoding, None
            return True
        if self._doubted is not None:
            self.encoding, self._doubted = self._doubted, None
        return False

    def pack(
        self, chunks: Iterator[bytes], content_type: str, pause: Callable[[], object]
    ) -> tuple[bytes, dict[str, str]]:
        """A body, which comes in chunks, as it is sent, and the headers that say how.

        What makes a chunk keeps other threads waiting, and to compress it does not: so these take turns.
        """
        headers = {"Content-Type": content_type}
        encoding, first = self.encoding, next(chunks)
        if encoding is None or len(first) < SMALLEST_COMPRESSED:
            parts = [first]
            for chunk in chunks:
                parts.append(chunk)
                pause()
            return b"".join(parts), headers
        headers["Content-Encoding"] = encoding
        compressor = _compressor(encoding)
        packed = [compressor.compress(first)]
        packed += map(compressor.compress, chunks)
        packed.append(compressor.flush())
        return b"".join(packed), headers


def _compressor(encoding: str) -> Any:
    if encoding == "zstd":
        return _zstandard().ZstdCompressor(level=3).compressobj()
    return zlib.compressobj(1, zlib.DEFLATED, 31)


_compressors: dict[str, Any] = {}
"""What was imported, or None where it is not installed."""


def _zstandard() -> Any:
    # Imported once, and that in `warm_up`: an import takes a lock, which a child that is forked meanwhile would find locked.
    if "zstandard" not in _compressors:
        try:
            _compressors["zstandard"] = import_module("zstandard")
        except ImportError:
            _compressors["zstandard"] = None
    return _compressors["zstandard"]
