"""The bounds of the receiver against strangers: size, depth, time and connections."""

from __future__ import annotations

import gzip
import http.client
import json
import logging
import random
import select
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from agentscope.server.http import body as bodies
from agentscope.server.http.limits import Limits, Refused
from agentscope.server.receiver import Receiver
from tests.support.receiver import Client, connect, envelope, raw, read_all, step
from tests.support.wait import until

BATCH = "/api/ingest/batch"
HEAD = b"POST /api/ingest/batch HTTP/1.1\r\nHost: {host}\r\nX-Agentscope-Key: k\r\nContent-Type: application/json\r\n"
DEEP = json.dumps(envelope(step(input=json.loads("[" * 90 + "]" * 90)))).encode()
GZIP, ZSTD = gzip.compress(b"x" * 40, mtime=0), zstandard.ZstdCompressor().compress(b"x" * 40)
SMALL = Limits(
    body_bytes=20_000, inflated_bytes=100_000, held_bytes=30_000, body_seconds=60, head_seconds=60, connections=8
)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(db=tmp_path / "runs.db", limits=SMALL) as running:
        yield running


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Receiver]:
    """One that soon gives up a head."""
    with Receiver(db=tmp_path / "runs.db", limits=replace(SMALL, head_seconds=0.3)) as running:
        yield running


def zstd_of_unknown_size(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


def test_a_body_larger_than_the_bound_is_refused_by_its_announced_length(receiver: Receiver) -> None:
    client = Client(receiver.url)
    assert client.send("POST", BATCH, b"x" * 20_001).status == 413
    assert client.batch(step(input="x" * 15_000)).status == 200


def test_a_chunked_body_is_taken_and_bounded_as_it_comes(receiver: Receiver) -> None:
    body = json.dumps(envelope(step())).encode()
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    assert raw(receiver.url, head + chunked).startswith(b"HTTP/1.1 200")
    large = b"".join(b"1000\r\n" + b"x" * 4096 + b"\r\n" for _ in range(10)) + b"0\r\n\r\n"
    assert raw(receiver.url, head + large).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("lines", "statuses"),
    [
        (b"Content-Length: -1", (400,)),
        (b"Content-Length: 1_0", (400,)),
        (b"Content-Length: +5", (400,)),
        (b"Content-Length: ", (400,)),
        (b"Content-Length: 5\r\nContent-Length: 6", (400,)),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked", (400,)),
        (b"X-Nothing: 1", (411,)),
        (b"Content-Length: 99999999999999999999999", (400, 413)),
    ],
)
def test_a_missing_or_malformed_length_is_refused(receiver: Receiver, lines: bytes, statuses: tuple[int, ...]) -> None:
    answer = raw(receiver.url, HEAD + lines + b"\r\nConnection: close\r\n\r\n0\r\n\r\n")
    assert int(answer.split(b" ", 2)[1]) in statuses
    assert Client(receiver.url).events() == 0


def test_pipelined_requests_are_answered_in_turn(receiver: Receiver) -> None:
    body = json.dumps(envelope(step())).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    answers = raw(receiver.url, request + last)
    assert answers.count(b"HTTP/1.1 200") == 2
    assert b'{"accepted":1' in answers
    assert b'"duplicates":1' in answers


def test_a_body_that_does_not_come_in_time_is_answered_with_408(tmp_path: Path) -> None:
    limits = replace(SMALL, body_seconds=0.3)
    with Receiver(db=tmp_path / "runs.db", limits=limits) as receiver, connect(receiver.url) as connection:
        head = HEAD.replace(b"{host}", receiver.url[7:].encode())
        connection.sendall(head + b'Content-Length: 100\r\n\r\n{"batch')
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer.lower()


def test_a_sender_that_leaves_amid_its_body_stores_nothing(receiver: Receiver) -> None:
    body = json.dumps(envelope(step())).encode()
    head = HEAD.replace(b"{host}", receiver.url[7:].encode())
    with connect(receiver.url) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n%b" % (len(body) + 1, body))
        connection.shutdown(socket.SHUT_WR)
        read_all(connection)
    assert Client(receiver.url).events() == 0


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_connection_that_sends_no_whole_head_is_closed(hasty: Receiver, sent: bytes) -> None:
    with connect(hasty.url) as connection:
        with suppress(ConnectionError):  # where this is late, it is closed by now
            connection.sendall(sent)
        assert read_all(connection) == b""


def test_a_second_request_on_a_connection_has_a_deadline_for_its_head_too(receiver: Receiver) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: %b\r\n\r\n" % receiver.url[7:].encode()
    with connect(receiver.url) as connection:
        connection.sendall(request)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, len(answer.read()) > 0) == (200, True)
        assert receiver._server is not None
        (served,) = receiver._server.server_state.connections
        served.limits = replace(SMALL, head_seconds=0.3)  # from here on: the first request may take its time
        with suppress(ConnectionError):  # where the second part is late, it is closed by then
            connection.sendall(request[:20])
            connection.sendall(request[20:30])
        assert read_all(connection) == b""


GRPC_CALL = (
    b"POST /opentelemetry.proto.collector.trace.v1.TraceService/Export HTTP/1.1\r\nHost: {host}\r\n"
    b"Content-Type: application/grpc+proto\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


@pytest.mark.parametrize(
    ("beginning", "advice"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"x" * 600, "use http://"),
        (GRPC_CALL, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"),
    ],
    ids=["HTTP/2", "TLS", "gRPC"],
)
def test_the_log_says_once_what_to_do_about_a_client_of_another_protocol(
    tmp_path: Path, beginning: bytes, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "agentscope.server")
    with Receiver(db=tmp_path / "runs.db", limits=SMALL) as receiver:
        for _ in range(3):
            answer = raw(receiver.url, beginning)
            assert int(answer.split(b" ")[1]) // 100 == 4
    (told,) = [record.message for record in caplog.records if record.name == "agentscope.server"]
    assert advice in told


def test_idle_connections_give_way_when_there_are_too_many(tmp_path: Path) -> None:
    with Receiver(db=tmp_path / "runs.db", limits=Limits(connections=8)) as receiver:
        idle = [connect(receiver.url) for _ in range(30)]
        try:
            assert Client(receiver.url).get("/health").status == 200
            assert idle[0].recv(1) == b""
        finally:
            for connection in idle:
                connection.close()


def test_all_bodies_together_are_bounded(receiver: Receiver) -> None:
    head = HEAD.replace(b"{host}", receiver.url[7:].encode())
    with connect(receiver.url) as first, connect(receiver.url) as second:
        for connection in (first, second):
            connection.sendall(head + b"Content-Length: 19000\r\n\r\n" + b"x" * 18_000)
        (refused,), _, _ = select.select([first, second], [], [], 30)
        assert refused.recv(65536).split(b" ")[1] == b"503"
        held = first if refused is second else second
        held.sendall(b"x" * 1000)
        assert held.recv(65536).split(b" ")[1] == b"400"  # it is no JSON
    client = Client(receiver.url)
    assert client.batch(step(input="x" * 15_000)).status == 200  # what was held is free again


def test_a_body_that_was_given_up_is_held_no_more(tmp_path: Path) -> None:
    limits = replace(SMALL, body_seconds=0.3)
    with Receiver(db=tmp_path / "runs.db", limits=limits) as receiver, connect(receiver.url) as connection:
        head = HEAD.replace(b"{host}", receiver.url[7:].encode())
        connection.sendall(head + b"Content-Length: 19000\r\n\r\n" + b"x" * 18_000)
        assert read_all(connection).startswith(b"HTTP/1.1 408")
        # Where this is late with the body of its own, that is given up as well.
        until(lambda: Client(receiver.url).batch(step(input="x" * 15_000)).status == 200, 60)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_body_that_inflates_beyond_the_bound_is_refused(receiver: Receiver, encoding: str) -> None:
    bomb = b" " * 50_000_000
    small = gzip.compress(bomb) if encoding == "gzip" else zstandard.ZstdCompressor().compress(bomb)
    body = small[:20_000]
    assert Client(receiver.url).send("POST", BATCH, body, content_encoding=encoding).status == 413


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (gzip.compress(b"x" * 200, mtime=0), "gzip", 413),
        (zstandard.ZstdCompressor().compress(b"x" * 200), "zstd", 413),
        (zstd_of_unknown_size(b"x" * 200), "zstd", 413),
        (gzip.compress(b"x" * 50, mtime=0)[:-1], "gzip", 400),
        (gzip.compress(b"x" * 50, mtime=0) + b"more", "gzip", 400),
        (b"no gzip", "gzip", 400),
        (zstandard.ZstdCompressor().compress(b"x" * 50)[:-1], "zstd", 400),
        (zstandard.ZstdCompressor().compress(b"x" * 50) + b"more", "zstd", 400),
        (zstd_of_unknown_size(b"x" * 50)[:-1], "zstd", 400),
        (zstd_of_unknown_size(b"x" * 50) + b"more", "zstd", 400),
        (b"", "zstd", 400),
        (b"", "gzip", 400),
        (GZIP + GZIP[:-1], "gzip", 400),
        (ZSTD + ZSTD[:-1], "zstd", 400),
        (GZIP * 2 + b"more", "gzip", 400),
        (ZSTD * 2 + b"more", "zstd", 400),
        (GZIP * 3, "gzip", 413),
        (ZSTD * 3, "zstd", 413),
        (gzip.compress(b"") * 20_000, "gzip", 400),
        (zstandard.ZstdCompressor().compress(b"") * 20_000, "zstd", 400),
        (zlib.compress(b"x") * 2, "deflate", 400),
        (b"x", "gzip, gzip", 415),
    ],
)
def test_a_body_that_does_not_inflate_cleanly_is_refused(body: bytes, encoding: str, status: int) -> None:
    with pytest.raises(Refused) as caught:
        bodies.inflate(body, encoding, 100)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("compress", "encoding"), [(gzip.compress, "gzip"), (zstandard.ZstdCompressor().compress, "zstd")]
)
def test_a_body_of_several_members_is_inflated_whole(compress: Callable[[bytes], bytes], encoding: str) -> None:
    parts = [b"", b"x" * 100_000, b"", b"y", random.Random(1).randbytes(100_000), b"z" * 70_000]
    assert bodies.inflate(b"".join(map(compress, parts)), encoding, 1 << 20) == b"".join(parts)


def test_events_in_several_members_are_stored(tmp_path: Path) -> None:
    body = json.dumps(envelope(step())).encode()
    with Receiver(db=tmp_path / "runs.db") as receiver:
        members = gzip.compress(body[:50]) + gzip.compress(body[50:])
        assert Client(receiver.url).send("POST", BATCH, members, content_encoding="gzip").json["accepted"] == 1


def test_a_zstd_frame_that_does_not_say_its_size_is_inflated() -> None:
    assert bodies.inflate(zstd_of_unknown_size(b"x" * 50), "zstd", 100) == b"x" * 50


@pytest.mark.parametrize("told", [0, 40, 1 << 20, (1 << 32) - 1])
def test_a_body_that_lies_about_its_size_is_refused(receiver: Receiver, told: int) -> None:
    zipped = gzip.compress(json.dumps(envelope(step(input="x" * 60_000))).encode())
    lying = zipped[:-4] + told.to_bytes(4, "little")
    answer = Client(receiver.url).send("POST", "/api/ingest/batch", lying, content_encoding="gzip")
    assert answer.status == 400
    assert bodies.declared_size(lying, "gzip") == told
    assert bodies.declared_size(b"no zstd", "zstd") == bodies.declared_size(b"", "deflate") == 0


def test_zstd_is_not_spoken_where_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "zstandard", None)
    with pytest.raises(Refused) as caught:
        bodies.inflate(b"x", "zstd", 100)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    "body",
    [b"[" * 19_000, b'{"events":' * 1_900, DEEP, b'{"a": NaN}', b'"\xff"'],
)
def test_depth_bombs_and_broken_json_are_malformed(receiver: Receiver, body: bytes) -> None:
    answer = Client(receiver.url).send("POST", BATCH, body)
    assert (answer.status, list(answer.json)) == (400, ["detail"])


def test_a_million_keys_are_refused_before_they_are_made(tmp_path: Path) -> None:
    keys = ",".join(f'"k{number}":1' for number in range(1_000_002))
    with Receiver(db=tmp_path / "runs.db") as receiver:
        answer = Client(receiver.url).zipped(f'{{"events":[{{{keys}}}]}}'.encode())
    assert answer.status == 413


def test_stopping_waits_for_a_request_in_flight_and_takes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It waits for two seconds: not long enough for a test that is put to sleep.
    monkeypatch.setattr("agentscope.server.receiver._GRACE", 60)
    monkeypatch.setattr("agentscope.server.receiver._STOP", 60)
    body = json.dumps(envelope(step())).encode()
    receiver = Receiver(db=tmp_path / "runs.db", limits=Limits(body_seconds=60, head_seconds=60)).start()
    with connect(receiver.url) as slow, connect(receiver.url) as idle:
        head = HEAD.replace(b"{host}", receiver.url[7:].encode())
        slow.sendall(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body[:-1]))
        assert receiver._server is not None
        connections = receiver._server.server_state.connections
        until(lambda: sorted(one._receives() for one in list(connections)) == [False, True], 30)
        thread = threading.Thread(target=receiver.stop)
        thread.start()
        assert read_all(idle) == b""  # closed by the shutdown, which therefore has begun
        slow.sendall(body[-1:])
        assert read_all(slow).startswith(b"HTTP/1.1 200")
        until(lambda: not thread.is_alive(), 30)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(receiver.url.rpartition(":")[2])), timeout=5).close()
