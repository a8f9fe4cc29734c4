"""Request bodies: read within a deadline and a size, and inflated within another size."""

from __future__ import annotations

import asyncio
import logging
import re
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import Any

from starlette.requests import ClientDisconnect, Request

from .limits import Limits, Refused

try:
    zstandard: Any = import_module("zstandard")
except ImportError:
    zstandard = None

logger = logging.getLogger("agentscope.server")

GRPC = (
    "A client speaks gRPC or HTTP/2. This port takes OTLP over HTTP/1.1 only: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, "
    "and this port in OTEL_EXPORTER_OTLP_ENDPOINT, or use the exporter for HTTP."
)
ENCODINGS = "gzip, deflate, zstd" if zstandard is not None else "gzip, deflate"
"""The value of the `Accept-Encoding` header of each answer (RFC 7694)."""
JSON = "application/json"

_DIGITS = re.compile(r"[0-9]{1,18}")
_ZSTD_WINDOW = 1 << 25
_CHUNK = 16 << 10  # bytes of the second and later members of a body that are given to a decoder at once
_MOST_MEMBERS = 10_000  # of one body
_ZLIB_BITS = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


class Bodies:
    """Reads the bodies of one application, and bounds the memory that all of them hold together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0
        self._is_grpc_told = False

    @property
    def held(self) -> int:
        """Bytes of the bodies that are being received or stored."""
        return self._held

    @asynccontextmanager
    async def hold(self, request: Request, *content_types: str) -> AsyncIterator[bytes]:
        """Read a body without inflating it, for the length of a block. Its bytes count as held until the block is left.

        `content_types` are the accepted ones in lower case. Raises `Refused`.
        """
        self._check_head(request, content_types)
        chunks: list[bytes] = []
        seconds = self._limits.body_seconds
        try:
            try:
                await asyncio.wait_for(self._read(request, chunks), seconds)
            except asyncio.TimeoutError:
                raise Refused(408, f"The body was not there within {seconds:g} s.", close=True) from None
            except ClientDisconnect:
                raise Refused(400, "The connection was closed before the end of the body.", close=True) from None
            chunks[:] = [b"".join(chunks)]
            yield chunks[0]
        finally:
            self._held -= sum(map(len, chunks))

    async def _read(self, request: Request, chunks: list[bytes]) -> None:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            self._held += len(chunk)
            chunks.append(chunk)
            if size > self._limits.body_bytes:
                raise Refused(413, f"The body is larger than {self._limits.body_bytes} bytes.")
            if self._held > self._limits.held_bytes:
                raise Refused(503, "Too many bodies are being read at the moment.", retry_after=1)

    def _check_head(self, request: Request, content_types: Sequence[str]) -> None:
        headers = request.headers
        if content_type(request).startswith("application/grpc"):
            if not self._is_grpc_told:
                self._is_grpc_told = True
                logger.warning(GRPC)
            raise Refused(415, GRPC)
        if content_type(request) not in content_types:
            raise Refused(415, f"Content-Type must be {' or '.join(content_types)}.")
        given = headers.getlist("content-length")
        if "transfer-encoding" in headers:
            if given:
                raise Refused(400, "Content-Length and Transfer-Encoding exclude each other.", close=True)
            return
        if not given:
            raise Refused(411, "Content-Length is required.")
        if len(given) > 1 or not _DIGITS.fullmatch(given[0]):
            raise Refused(400, "Content-Length must be a plain number.", close=True)
        if int(given[0]) > self._limits.body_bytes:
            raise Refused(413, f"The body is larger than {self._limits.body_bytes} bytes.")


def content_type(request: Request) -> str:
    """Return the media type of a request in lower case and without parameters; empty if it names none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Remove the content encoding of a body. A body of gzip may have several members, and one of zstd several frames.

    Raises `Refused`: 400 for a broken body, 413 for one of more than `limit` bytes, 415 for an unknown encoding.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name in _ZLIB_BITS:
        return _unzlib(body, name, limit)
    if name == "zstd" and zstandard is not None:
        return _unzstd(body, limit)
    raise Refused(415, f"Content-Encoding must be one of identity, {ENCODINGS}.")


def declared_size(body: bytes, encoding: str) -> int:
    """Return the inflated size that a body declares, which may be a lie; 0 if it declares none."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return len(body)
    if name in ("gzip", "x-gzip"):
        return int.from_bytes(body[-4:], "little")
    if name == "zstd" and zstandard is not None:
        try:
            return max(0, int(zstandard.frame_content_size(body)))
        except zstandard.ZstdError:
            return 0  # `inflate` refuses it
    return 0


def _unzlib(body: bytes, name: str, limit: int) -> bytes:
    parts: list[bytes] = []
    size = at = 0
    while True:
        unpack = zlib.decompressobj(wbits=_ZLIB_BITS[name])
        # The rest of the body after a member is copied, so that the first member is given all of it, and others a part.
        taken = _CHUNK if parts else len(body)
        while not unpack.eof:
            chunk = memoryview(body)[at : at + taken]
            try:
                parts.append(unpack.decompress(chunk, limit + 1 - size))
            except zlib.error:
                raise Refused(400, f"The body is not valid {name}.") from None
            size += len(parts[-1])
            at += len(chunk) - len(unpack.unused_data)
            if size > limit:
                raise _too_large(limit)
            if not (chunk or unpack.eof):
                raise Refused(400, f"The body is not one whole {name} stream.")
        if at == len(body):
            return b"".join(parts)
        if name == "deflate" or len(parts) > _MOST_MEMBERS:
            raise Refused(400, f"The body is not one whole {name} stream.")


def _unzstd(body: bytes, limit: int) -> bytes:
    unpack = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    try:
        size = zstandard.get_frame_parameters(body).content_size
        if size != zstandard.CONTENTSIZE_UNKNOWN:
            if size > limit:
                raise _too_large(limit)
            with suppress(zstandard.ZstdError):  # of several frames
                data: bytes = unpack.decompress(body, allow_extra_data=False)
                if size:  # after an empty frame the library does not look for more
                    return data
        with unpack.stream_reader(body, read_across_frames=True) as reader:
            data = reader.read(limit + 1)
        if len(data) > limit:
            raise _too_large(limit)
        # The reader does not tell the end of a frame from the end of the body.
        at = frames = 0
        while at < len(body) and frames < _MOST_MEMBERS:
            whole = unpack.decompressobj()
            while not whole.eof:
                chunk = body[at : at + _CHUNK]
                if not chunk:
                    raise Refused(400, "The body is not one whole zstd frame.")
                whole.decompress(chunk)
                at += len(chunk) - len(whole.unused_data)
            frames += 1
    except zstandard.ZstdError:
        raise Refused(400, "The body is not valid zstd.") from None
    if at < len(body):
        raise Refused(400, f"The body has more than {_MOST_MEMBERS} zstd frames.")
    return data


def _too_large(limit: int) -> Refused:
    return Refused(413, f"The body is larger than {limit} bytes when inflated (--max-inflated).")
