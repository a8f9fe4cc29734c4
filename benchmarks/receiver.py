"""The events a second that the receiver stores, and its CPU time and memory for them.

    python -m benchmarks.receiver [--events 100000] [--connections 1] [--steps 10] [--encoding gzip] [--json]
    python -m benchmarks.receiver --lengths        the same load as runs of 10, of 1 000 and of 100 000 steps

The receiver is `agentscope serve` in a process of its own, on a fresh database. Batches as the SDK sends them (500
events, of which a step carries about 1 KB in and 1 KB out) are prepared a portion at a time, and only the time in which
they are sent counts. Each is acknowledged after its commit, and at the end the receiver must hold every event once.

The CPU time an event is the figure to compare: the rate also depends on the disk and on who else uses the machine.
CPU time and memory are read from /proc, so that it runs on Linux only.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import islice
from urllib.parse import urlsplit

BATCH = 500
PORTION = 40_000  # events that are prepared at a time
LENGTHS = (10, 1_000, 100_000)
HEADERS = {"X-Agentscope-Key": "bench", "Content-Type": "application/json"}
_PLAIN = "sys.modules['orjson'] = None; "
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Result:
    """The figures of one load."""

    events: int
    steps: int
    connections: int
    encoding: str
    plain: bool
    """True if the receiver had no orjson."""
    wire_bytes: float
    """Bytes of the body for each event."""
    events_per_second: float
    cpu_us: float
    """CPU time of the receiver for each event, in user and system mode."""
    cpu_us_first: float
    """`cpu_us` of the first tenth of the load, at least of one portion."""
    cpu_us_last: float
    """`cpu_us` of the last tenth of the load, at least of one portion."""
    rss_mb_first: float
    """Memory of the receiver after the first portion."""
    rss_mb_last: float
    peak_mb: float


def main() -> None:
    options = _options()
    lengths = LENGTHS if options.lengths else (options.steps,)
    results: list[Result] = []
    for _ in range(options.repeats):
        for steps in lengths:
            results.append(measure(options.events, steps, options.connections, options.encoding, plain=options.plain))
            if not options.json:
                print(told(results[-1]), flush=True)
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
    elif options.lengths:
        for steps in lengths[1:]:
            ratio = _best(results, steps) / _best(results, lengths[0])
            print(f"runs of {steps} steps cost {ratio:.2f} of the CPU time of runs of {lengths[0]}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.receiver", description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=100_000, help="events to store")
    parser.add_argument("--connections", type=int, default=1, help="kept-alive connections that send at once")
    parser.add_argument("--steps", type=int, default=10, help="steps of a run")
    parser.add_argument("--encoding", choices=sorted(ENCODINGS), default="gzip", help="how bodies are compressed")
    parser.add_argument("--plain", action="store_true", help="without the extra `fast`: JSON by the standard library")
    parser.add_argument("--lengths", action="store_true", help="runs of 10, 1 000 and 100 000 steps, compared")
    parser.add_argument("--repeats", type=int, default=1, help="how often everything is measured")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options: argparse.Namespace = parser.parse_args()
    return options


def told(result: Result) -> str:
    """The result as one line of text."""
    means = f"{result.connections} connection(s), {result.encoding}{', plain' if result.plain else ''}"
    return (
        f"{result.events} events, runs of {result.steps} steps, {means}: "
        f"{result.events_per_second:,.0f} events/s, {result.cpu_us:.1f} µs of CPU an event "
        f"(first {result.cpu_us_first:.1f}, last {result.cpu_us_last:.1f}), {result.wire_bytes:.0f} bytes each; "
        f"{result.rss_mb_first:.0f} MB, later {result.rss_mb_last:.0f}, peak {result.peak_mb:.0f}"
    )


def measure(events: int, steps: int, connections: int, encoding: str, *, plain: bool = False) -> Result:
    """Store `events` events, rounded up to whole batches, in a new receiver."""
    with receiver(plain) as (process, url):
        source = batches(patches(steps), ENCODINGS[encoding])
        sender = Sender(url, connections, encoding)
        sender.send([next(source)])  # the set-up at the first request is no cost of an event
        left = -(-events // BATCH)
        wall = size = 0.0
        costs: list[tuple[int, float]] = []
        rss_first = 0.0
        while left:
            bodies = list(islice(source, min(left, PORTION // BATCH)))
            left -= len(bodies)
            size += sum(map(len, bodies))
            cpu, began = cpu_seconds(process.pid), time.perf_counter()
            sender.send(bodies)
            wall += time.perf_counter() - began
            costs.append((len(bodies) * BATCH, cpu_seconds(process.pid) - cpu))
            rss_first = rss_first or memory_mb(process.pid, "VmRSS")
        sender.close()
        sent = sum(count for count, _ in costs)
        stored = health(url)["events"]
        if stored != sent + BATCH:
            raise SystemExit(f"{sent + BATCH} events were acknowledged, and {stored} are stored")
        tenth = max(1, len(costs) // 10)
        return Result(
            events=sent,
            steps=steps,
            connections=connections,
            encoding=encoding,
            plain=plain,
            wire_bytes=size / sent,
            events_per_second=sent / wall,
            cpu_us=_cost(costs),
            cpu_us_first=_cost(costs[:tenth]),
            cpu_us_last=_cost(costs[-tenth:]),
            rss_mb_first=rss_first,
            rss_mb_last=memory_mb(process.pid, "VmRSS"),
            peak_mb=memory_mb(process.pid, "VmHWM"),
        )


@contextmanager
def receiver(plain: bool = False) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A new receiver on a new database, and its URL; both are removed at the end. plain: without orjson."""
    with tempfile.TemporaryDirectory() as folder:
        program = (
            f"import runpy, sys; {_PLAIN if plain else ''}"
            "sys.argv = ['agentscope', 'serve', '--port', '0', '--db', sys.argv[1]]; "
            "runpy.run_module('agentscope', run_name='__main__')"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program, f"{folder}/bench.db"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            if not found:
                raise SystemExit("the receiver did not start")
            url = found.group()
            yield process, url
        finally:
            process.terminate()
            process.wait()


class Sender:
    """Sends bodies over some kept-alive connections, one request after the other on each."""

    def __init__(self, url: str, connections: int, encoding: str) -> None:
        host = urlsplit(url).netloc
        self._headers = HEADERS if encoding == "identity" else {**HEADERS, "Content-Encoding": encoding}
        self._connections = [http.client.HTTPConnection(host, timeout=60) for _ in range(connections)]
        self._pool = ThreadPoolExecutor(connections)
        self._taking = threading.Lock()

    def send(self, bodies: Sequence[bytes]) -> None:
        """Send all bodies and wait for their acknowledgements. Exits at the first refusal."""
        waiting = iter(bodies)
        for done in [self._pool.submit(self._send, connection, waiting) for connection in self._connections]:
            done.result()

    def close(self) -> None:
        self._pool.shutdown()
        for connection in self._connections:
            connection.close()

    def _send(self, connection: http.client.HTTPConnection, waiting: Iterator[bytes]) -> None:
        while True:
            with self._taking:
                body = next(waiting, None)
            if body is None:
                return
            connection.request("POST", "/api/ingest/batch", body, self._headers)
            answer = connection.getresponse()
            found = answer.read()
            if answer.status != 200 or json.loads(found) != {"accepted": BATCH, "duplicates": 0, "rejected": []}:
                raise SystemExit(f"the receiver answered {answer.status}: {found[:500]!r}")


def batches(events: Iterator[str], compress: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """An endless sequence of bodies of the batch call."""
    number = 0
    while True:
        number += 1
        head = f'{{"batch_id":"batch-{number}","sdk":{{"name":"bench","version":"0"}},"session_id":"session","events":['
        yield compress(f"{head}{','.join(islice(events, BATCH))}]}}".encode())


def patches(steps: int) -> Iterator[str]:
    """An endless sequence of the JSON events of runs with `steps` steps each."""
    inputs, outputs = payloads()
    seq = 0

    def event(kind: str, run: int, step: str, rest: str) -> str:
        nonlocal seq
        seq += 1
        return (
            f'{{"id":"06294a33-abb3-8b41-8339-{seq:012x}","seq":{seq},"time":"{moment(seq)}","type":"{kind}",'
            f'"run_id":"8f0396a9-d672-4ee9-97f5-{run:012x}","step_id":{step},"parent_id":null,{rest}}}'
        )

    run = 0
    while True:
        run += 1
        rest = f'"status":"running","started_at":"{moment(seq)}","agent_name":"bench","input":{{"task":"bench"}}'
        yield event("run.start", run, "null", rest)
        for _ in range(steps):
            given, got = inputs[seq % len(inputs)], outputs[seq % len(outputs)]
            rest = (
                f'"input":{given},"status":"completed","latency_ms":12.5,"started_at":"{moment(seq)}",'
                f'"ended_at":"{moment(seq + 1)}","name":"search","step_type":"tool_call","output":{got},"tokens_used":7'
            )
            yield event("step", run, f'"d3def38c-aa6a-4509-865e-{seq:012x}"', rest)
        yield event("run.end", run, "null", f'"ended_at":"{moment(seq)}","status":"completed","output":{{"n":{run}}}')


def moment(seq: int) -> str:
    """An ISO time that grows by a millisecond with `seq`."""
    seconds, milli = divmod(seq, 1000)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    return f"2026-01-{1 + hours // 24:02d}T{hours % 24:02d}:{minute:02d}:{second:02d}.{milli:03d}417Z"


def payloads() -> tuple[list[str], list[str]]:
    """Inputs and outputs of about 1 KB each, of different words, which compress as real text does."""
    chance = random.Random(7)
    letters = "taremialverontiesqualoserpentingerble"
    syllables = [letters[at : at + 2] for at in range(len(letters) - 1)]
    words = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(3000)]

    def text(size: int) -> str:
        found = ""
        while len(found) < size:
            found += chance.choice(words[:40] if chance.random() < 0.5 else words) + " "
        return found[:size]

    inputs = [
        {
            "model": "gpt-4o",
            "temperature": 0.2,
            "max_tokens": 512,
            "stream": False,
            "messages": [{"role": "system", "content": text(200)}, {"role": "user", "content": text(610)}],
            "meta": {"user": chance.randrange(10**8), "score": chance.random(), "ok": True, "none": None},
        }
        for _ in range(1024)
    ]
    outputs = [
        {
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text(860)}}],
            "usage": {"prompt_tokens": chance.randrange(999), "completion_tokens": chance.randrange(999)},
        }
        for _ in range(1021)
    ]
    return [_dumped(value) for value in inputs], [_dumped(value) for value in outputs]


def _dumped(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, 1)


def _zstd(body: bytes) -> bytes:
    packed: bytes = import_module("zstandard").compress(body, 1)
    return packed


def _identity(body: bytes) -> bytes:
    return body


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {"identity": _identity, "gzip": _gzip, "zstd": _zstd}


def cpu_seconds(pid: int) -> float:
    """User and system CPU seconds of a process."""
    with open(f"/proc/{pid}/stat") as file:
        found = file.read().rpartition(")")[2].split()
    return (int(found[11]) + int(found[12])) / _TICK


def memory_mb(pid: int, name: str) -> float:
    """A field of /proc/PID/status in MB."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(f"{name}:"))


def health(url: str) -> dict[str, int]:
    """The answer to `GET /health`."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url + "/health", timeout=30) as answer:
        found: dict[str, int] = json.load(answer)
        return found


def _cost(costs: Sequence[tuple[int, float]]) -> float:
    return sum(seconds for _, seconds in costs) / sum(count for count, _ in costs) * 1e6


def _best(results: Sequence[Result], steps: int) -> float:
    return min(result.cpu_us for result in results if result.steps == steps)


if __name__ == "__main__":
    main()
