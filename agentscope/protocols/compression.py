"""The size and compression of bodies with many events, adapted to the answers of the backend."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from typing import Any

from .base import Response

SMALLEST_COMPRESSED = 1024
"""Bytes below which compression costs more than it saves."""
SMALLEST_TIMELY = 128 * 1024
"""Lower bound, in bytes, of the body size for a slow backend."""


class PieceState:
    """Size, compression and availability of a backend's batch call, kept for the life of the process."""

    def __init__(self, compress: bool, largest_body: int) -> None:
        self.compress = compress
        self.encoding: str | None = "gzip" if compress else None
        """Content encoding of the next body; None for no compression."""
        self.proven = False
        """True after the backend has accepted a compressed body."""
        self._left_out: str | None = None
        """The encoding that was left out of the last body, to find out whether it caused the refusal."""
        self.accepted = 0
        """The number of stored events, which shows if others are accepted while one is refused."""
        self.largest_body = largest_body
        """Bound on a body of several events, in bytes."""
        self.timely_body = largest_body
        """Bound in bytes on a body, so that a slow connection transfers it before the timeout."""
        self.confirmed = False
        """True after the first acknowledgement. A later 404 is more likely a proxy's than the backend's."""
        self.absences = 0
        """Consecutive answers of 404 or 405."""

    def warm_up(self) -> None:
        """Import the compressor if compression is on."""
        if self.compress:
            _zstandard()

    def learn(self, response: Response) -> None:
        """Choose the encoding from `Accept-Encoding` in an answer (RFC 7694)."""
        announced = response.headers.get("accept-encoding")
        if self.compress and announced is not None and response.status != 415:
            known = {name.split(";")[0].strip() for name in announced.lower().split(",")}
            if "zstd" in known and _zstandard() is not None:
                self.encoding = "zstd"
            else:
                self.encoding = "gzip" if "gzip" in known else None
            self.proven = self.encoding is not None

    def shrink(self, size: int) -> None:
        """Halve the body size after a timeout of a body of `size` bytes."""
        self.timely_body = max(size // 2, SMALLEST_TIMELY)

    def grow(self, compressed: bool) -> None:
        """Raise the body size again after a body was accepted."""
        self.timely_body = min(self.timely_body + self.timely_body // 8, self.largest_body)
        self.proven = self.proven or compressed
        self._left_out = None

    def suspects_compression(self, compressed: bool) -> bool:
        """Return True if a refused body should be sent again without compression, which may be the cause.

        Compression is suspected until a compressed body has been accepted. A refusal without compression clears it.
        """
        if compressed and not self.proven:
            self._left_out, self.encoding = self.encoding, None
            return True
        if self._left_out is not None:
            self.encoding, self._left_out = self._left_out, None
        return False

    def pack(
        self, chunks: Iterator[bytes], content_type: str, pause: Callable[[], object]
    ) -> tuple[bytes, dict[str, str]]:
        """Join and compress the chunks of a body. Returns it with its headers.

        Compressing a chunk releases the GIL for other threads. Without compression `pause` is called after each chunk.
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
        if encoding == "zstd":
            compressor = _zstandard().ZstdCompressor(level=3).compressobj()
        else:
            compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
        packed = [compressor.compress(first)]
        packed += map(compressor.compress, chunks)
        packed.append(compressor.flush())
        return b"".join(packed), headers


@cache
def _zstandard() -> Any:
    """The package `zstandard`, or None. It is imported in `warm_up`: a child forked during an import would find the lock held."""
    try:
        return import_module("zstandard")
    except ImportError:
        return None
