"""The test doubles behave as documented, since a wrong double makes other tests prove nothing."""

from __future__ import annotations

import gzip
import http.client
import json
import signal
import socket
import threading
import time
from itertools import count, islice
from typing import Any
from urllib.parse import urlsplit

import pytest

from agentscope.server.receiver import Receiver
from tests.support.command import ROOT, run
from tests.support.fault_plans import Chaos
from tests.support.faults import MISCOUNTS, MODES
from tests.support.platform import DeployedPlatform
from tests.support.program import run_program, start_program
from tests.support.proxy import FaultProxy, HangServer
from tests.support.proxy_connection import Exchange
from tests.support.wait import until

KEY = {"X-Agentscope-Key": "ask_test", "Content-Type": "application/json"}


def call(
    url: str,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    timeout: float = 60,
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
    try:
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, content, KEY if headers is None else headers)
        response = connection.getresponse()
        return response.status, response.read(), dict(response.getheaders())
    finally:
        connection.close()


@pytest.fixture
def platform():
    with DeployedPlatform() as opened:
        yield opened


@pytest.fixture
def run_id(platform):
    _, answer, _ = call(platform.url, "POST", "/api/ingest/run", {"agent_name": "a"})
    return json.loads(answer)["id"]


class TestDeployedPlatform:
    def test_it_stores_a_run_its_steps_in_order_of_arrival_and_its_updates(self, platform, run_id):
        for name in ("first", "second"):
            step = {"name": name, "step_type": "custom", "tokens_used": 3, "ended_at": "2026-01-31T12:00:00.100"}
            assert call(platform.url, "POST", f"/api/ingest/run/{run_id}/step", step)[0] == 200
        update = {"status": "completed", "output": {"x": 1}, "ended_at": "2026-01-31T12:00:00.123456"}
        assert call(platform.url, "PATCH", f"/api/ingest/run/{run_id}", update)[0] == 200
        run = platform.only_run()
        assert [(step["step_index"], step["name"]) for step in run.steps] == [(0, "first"), (1, "second")]
        assert [step["name"] for step in platform.steps] == ["first", "second"]
        assert run.updates == [update]
        assert (run.status, run.output) == ("completed", {"x": 1})
        assert platform.requests == 4
        assert platform.refusals == []

    def test_a_repeated_create_makes_a_second_run_whatever_the_idempotency_key(self, platform):
        for _ in range(2):
            headers = {**KEY, "Idempotency-Key": "same"}
            call(platform.url, "POST", "/api/ingest/run", {"agent_name": "a"}, headers)
        assert [run.idempotency_key for run in platform.runs.values()] == ["same", "same"]

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({}, 422),
            ({"agent_name": None}, 422),
            ({"agent_name": 3}, 422),
            ({"agent_name": "a", "input": [1]}, 422),
            ({"agent_name": "a", "meta_data": "text"}, 422),
            ([], 422),
            (b"{", 422),
            (b"\xff", 422),
            (gzip.compress(b"{}", mtime=0), 400),
            ({"agent_name": "a" * 256}, 500),
            ({"agent_name": "a", "external_id": "é" * 256}, 500),
            ({"agent_name": "a\x00"}, 500),
            ({"agent_name": "a", "input": {"deep": [{"\x00": 1}]}}, 500),
            ({"agent_name": "a", "input": {"x": "\ud800"}}, 500),
            (b'{"agent_name": "a", "input": {"x": NaN}}', 500),
            ({"agent_name": "a", "input": {"x": "\\u0000", "y": 2**40}}, 200),
            ({"agent_name": "a" * 255, "external_id": None, "unknown": 1}, 200),
        ],
    )
    def test_it_refuses_the_runs_that_a_deployed_platform_refuses(self, platform, body, status):
        assert call(platform.url, "POST", "/api/ingest/run", body)[0] == status
        assert [entry[0] for entry in platform.refusals] == [status] * (status != 200)
        assert len(platform.runs) == (status == 200)

    @pytest.mark.parametrize(
        ("fields", "status"),
        [
            ({"step_type": "other"}, 422),
            ({"step_type": "reasoning"}, 422),
            ({"name": None}, 422),
            ({"tokens_used": "3"}, 422),
            ({"tokens_used": True}, 422),
            ({"latency_ms": 1.5}, 422),
            ({"error": "text"}, 422),
            ({"started_at": "yesterday"}, 422),
            ({"started_at": "2026-01-31T12:00:00.123456Z"}, 500),
            ({"ended_at": "2026-01-31T12:00:00+00:00"}, 500),
            ({"tokens_used": 2**31}, 500),
            ({"latency_ms": -(2**31) - 1}, 500),
            ({"name": "n" * 256}, 500),
            ({"tokens_used": 2**31 - 1, "started_at": "2026-01-31T12:00:00"}, 200),
        ],
    )
    def test_it_refuses_the_steps_that_a_deployed_platform_refuses(self, platform, run_id, fields, status):
        step = {"name": "n", "step_type": "llm_call", **fields}
        assert call(platform.url, "POST", f"/api/ingest/run/{run_id}/step", step)[0] == status

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("POST", "/api/ingest/batch", 404),
            ("PATCH", "/api/ingest/run/00000000-0000-4000-8000-000000000009", 404),
            ("PATCH", "/api/ingest/run/not-a-uuid", 422),
            ("POST", "/api/ingest/run/00000000-0000-4000-8000-000000000009", 405),
            ("GET", "/", 404),
        ],
    )
    def test_it_has_the_three_classic_calls_and_knows_only_its_own_runs(self, platform, method, path, status):
        assert call(platform.url, method, path, {})[0] == status

    def test_a_missing_key_is_422_and_a_wrong_one_401(self, platform):
        json_only = {"Content-Type": "application/json"}
        assert call(platform.url, "POST", "/api/ingest/run", {"agent_name": "a"}, json_only)[0] == 422
        wrong = {**KEY, "X-Agentscope-Key": "other"}
        assert call(platform.url, "POST", "/api/ingest/run", {"agent_name": "a"}, wrong)[0] == 401

    def test_a_body_that_is_not_announced_as_json_is_422(self, platform):
        headers = {"X-Agentscope-Key": "ask_test", "Content-Type": "text/plain"}
        assert call(platform.url, "POST", "/api/ingest/run", {"agent_name": "a"}, headers)[0] == 422

    def test_a_body_of_unknown_length_is_411(self, platform):
        headers = {**KEY, "Transfer-Encoding": "chunked"}
        assert call(platform.url, "POST", "/api/ingest/run", b"0\r\n\r\n", headers)[0] == 411

    def test_half_a_request_is_not_counted(self, platform):
        with socket.create_connection(urlsplit(platform.url).netloc.split(":")) as connection:
            connection.sendall(b"POST /api/ingest/run HTTP/1.1\r\nContent-Length: 10\r\n\r\n{}")
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
        assert platform.requests == 0

    def test_it_notes_the_fields_that_it_drops_without_a_word(self, platform):
        call(platform.url, "POST", "/api/ingest/run", {"agent_name": "a", "tags": []})
        assert platform.ignored == [("/api/ingest/run", "tags")]

    def test_fail_next_answers_so_many_requests_and_stores_nothing(self, platform):
        platform.fail_next(2, 429, {"Retry-After": "7"})
        answers = [call(platform.url, "POST", "/api/ingest/run", {"agent_name": "a"}) for _ in range(3)]
        assert [status for status, _, _ in answers] == [429, 429, 200]
        assert answers[0][2]["Retry-After"] == "7"
        assert len(platform.runs) == 1

    def test_it_counts_the_most_connections_that_were_open_at_one_time(self, platform):
        together = threading.Barrier(3)
        platform.on_request = lambda request: together.wait(60)
        threads = [
            threading.Thread(target=call, args=(platform.url, "POST", "/api/ingest/run", {"agent_name": "a"}))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert platform.max_parallel == 3
        assert platform.connections == 3

    def test_latency_delays_the_answer(self, platform):
        platform.latency = 0.2
        started = time.monotonic()
        call(platform.url, "POST", "/api/ingest/run", {"agent_name": "a"})
        assert time.monotonic() - started >= 0.2

    def test_closing_ends_idle_connections_and_leaves_no_thread(self):
        before = set(threading.enumerate())
        with DeployedPlatform() as platform:
            connection = http.client.HTTPConnection(urlsplit(platform.url).netloc, timeout=60)
            connection.request("POST", "/api/ingest/run", b'{"agent_name": "a"}', KEY)
            connection.getresponse().read()
        connection.close()
        until(lambda: not set(threading.enumerate()) - before, 30)

    def test_a_fault_of_the_stand_in_itself_fails_the_test(self):
        def explode(request):
            raise ValueError("a bug")

        with pytest.raises(AssertionError, match="the stand-in broke"), DeployedPlatform() as platform:
            platform.on_request = explode
            with pytest.raises(http.client.RemoteDisconnected):
                call(platform.url, "POST", "/api/ingest/run", {"agent_name": "a"})

    def test_only_run_wants_exactly_one(self, platform):
        with pytest.raises(AssertionError, match="0 runs"):
            platform.only_run()


@pytest.fixture
def proxy(platform):
    with FaultProxy(platform.url) as opened:
        yield opened


def create(url: str, timeout: float = 60) -> tuple[int, bytes, dict[str, str]]:
    return call(url, "POST", "/api/ingest/run", {"agent_name": "a"}, timeout=timeout)


class TestFaultProxy:
    def test_pass_hands_request_and_answer_through_on_one_connection(self, proxy, platform):
        connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=60)
        for _ in range(2):
            connection.request("POST", "/api/ingest/run?q=1".partition("?")[0], b'{"agent_name": "a"}', KEY)
            answer = json.loads(connection.getresponse().read())
            assert answer["id"] in platform.runs
        connection.close()
        assert (proxy.connections, platform.connections) == (1, 1)
        assert proxy.counts == {"pass": 2}
        assert proxy.requests[0].header("x-agentscope-key") == "ask_test"
        assert proxy.requests[0].header("nothing") is None

    def test_an_upstream_that_went_away_is_502(self, proxy, platform):
        platform.__exit__(None, None, None)
        assert create(proxy.url)[0] == 502

    def test_an_upstream_connection_that_was_closed_while_idle_is_opened_again(self, proxy, platform):
        connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=60)
        for _ in range(2):
            connection.request("POST", "/api/ingest/run", b'{"agent_name": "a"}', KEY)
            assert connection.getresponse().read()
            platform._server.hang_up()
        connection.close()
        assert len(platform.runs) == 2

    def test_without_an_upstream_everything_is_502(self):
        with FaultProxy() as proxy:
            assert create(proxy.url)[0] == 502

    def test_refuse_refuses_connections_and_ends_open_ones_and_the_same_port_opens_again(self, proxy):
        connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=60)
        connection.request("POST", "/api/ingest/run", b'{"agent_name": "a"}', KEY)
        connection.getresponse().read()
        proxy.set("refuse")
        assert connection.sock.recv(1) == b""
        connection.close()
        with pytest.raises(ConnectionRefusedError):
            create(proxy.url)
        proxy.set("pass")
        assert create(proxy.url)[0] == 200

    def test_it_may_start_by_refusing(self):
        with FaultProxy(None, "refuse") as proxy, pytest.raises(ConnectionRefusedError):
            create(proxy.url)

    def test_hang_reads_the_request_and_never_answers(self, proxy, platform):
        proxy.set("hang")
        with pytest.raises(TimeoutError):
            create(proxy.url, timeout=0.1)
        until(lambda: proxy.counts["hang"] == 1)  # the test may have been late itself
        assert platform.requests == 0

    def test_hang_may_commit_first(self, proxy, platform):
        proxy.set("hang", commit=True)
        with pytest.raises(TimeoutError):
            create(proxy.url, timeout=0.5)
        until(lambda: len(platform.runs) == 1)

    def test_hang_server_hangs(self):
        with HangServer() as server, pytest.raises(TimeoutError):
            create(server.url, timeout=0.1)

    def test_no_read_leaves_a_large_body_stuck_in_the_sender(self, proxy):
        proxy.set("no_read")
        with pytest.raises(TimeoutError):
            call(proxy.url, "POST", "/", b"x" * 64_000_000, timeout=0.3)

    @pytest.mark.parametrize("part", ["head", "body"])
    def test_drip_answers_a_byte_an_interval(self, proxy, platform, part):
        proxy.set("drip", interval=0.001, part=part)
        started = time.monotonic()
        assert create(proxy.url)[0] == 200
        assert time.monotonic() - started > 0.1
        assert len(platform.runs) == 1

    def test_drip_without_commit_does_not_reach_the_upstream(self, proxy, platform):
        proxy.set("drip", interval=0.2, commit=False)
        with pytest.raises(TimeoutError):
            create(proxy.url, timeout=0.1)
        assert platform.requests == 0

    @pytest.mark.parametrize(("mode", "runs"), [("reset_before", 0), ("reset_after", 1)])
    def test_reset_ends_with_rst_before_or_after_the_commit(self, proxy, platform, mode, runs):
        proxy.set(mode)
        with pytest.raises(ConnectionResetError):
            create(proxy.url)
        assert len(platform.runs) == runs

    def test_status_answers_a_code_with_headers_and_body(self, proxy, platform):
        proxy.set("status", code=429, headers={"Retry-After": "3"}, body=b"slow down", commit=True)
        status, body, headers = create(proxy.url)
        assert (status, body, headers["Retry-After"]) == (429, b"slow down", "3")
        assert len(platform.runs) == 1

    def test_redirect_points_elsewhere(self, proxy):
        proxy.set("redirect", code=308, location="http://127.0.0.2:1/")
        status, _, headers = create(proxy.url)
        assert (status, headers["Location"]) == (308, "http://127.0.0.2:1/")

    def test_html200_is_a_page(self, proxy):
        proxy.set("html200")
        status, body, headers = create(proxy.url)
        assert (status, headers["Content-Type"]) == (200, "text/html")
        assert body.startswith(b"<!doctype html>")

    def test_empty204_has_no_body(self, proxy):
        proxy.set("empty204")
        assert create(proxy.url)[:2] == (204, b"")

    def test_garbage_is_not_http(self, proxy, platform):
        proxy.set("garbage", commit=True)
        with pytest.raises(http.client.BadStatusLine):
            create(proxy.url)
        assert len(platform.runs) == 1
        proxy.set("garbage")
        with pytest.raises(http.client.BadStatusLine):
            create(proxy.url)
        assert len(platform.runs) == 1

    def test_truncated_ends_in_the_middle_of_the_body_or_at_the_given_byte(self, proxy):
        proxy.set("truncated")
        with pytest.raises(http.client.IncompleteRead):
            create(proxy.url)
        proxy.set("truncated", at=15)
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert connection.makefile("rb").read() == b"HTTP/1.1 404 No"

    def test_split_sends_every_byte_in_turn_and_the_answer_stays_whole(self, proxy, platform):
        proxy.set("split")
        assert json.loads(create(proxy.url)[1])["id"] in platform.runs

    @pytest.mark.parametrize("commit", [True, False])
    def test_delay_answers_late_and_may_commit_late_though_the_client_is_gone(
        self, proxy, platform, commit, monkeypatch
    ):
        paused, late = threading.Event(), threading.Event()
        monkeypatch.setattr(Exchange, "pause", lambda *_: [paused.set(), late.wait(60)])
        proxy.set("delay", seconds=1.0, commit=commit)
        with pytest.raises(TimeoutError):
            create(proxy.url, timeout=0.3)
        assert paused.wait(60)
        assert len(platform.runs) == commit
        late.set()
        until(lambda: len(platform.runs) == 1)
        assert create(proxy.url)[0] == 200

    @pytest.mark.parametrize("reset", [True, False])
    def test_idle_close_answers_and_then_ends_the_kept_connection(self, proxy, reset):
        proxy.set("idle_close", reset=reset)
        connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=60)
        connection.request("POST", "/api/ingest/run", b'{"agent_name": "a"}', KEY)
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Connection"), len(answer.read()) > 0) == (200, None, True)
        until(lambda: connection.sock is not None and not proxy._open)
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            connection.request("POST", "/api/ingest/run", b'{"agent_name": "a"}', KEY)
            connection.getresponse()
        connection.close()

    def test_wrong_type_is_the_right_answer_by_another_name(self, proxy, platform):
        proxy.set("wrong_type", content_type="image/png")
        status, body, headers = create(proxy.url)
        assert (status, headers["Content-Type"]) == (200, "image/png")
        assert json.loads(body)["id"] in platform.runs

    def test_huge_is_the_right_answer_and_much_more(self, proxy, platform):
        proxy.set("huge", size=100_000)
        _, body, _ = create(proxy.url)
        assert len(body) > 100_000
        assert json.loads(body)["id"] in platform.runs

    @pytest.mark.parametrize("kind", MISCOUNTS)
    def test_wrong_counts_change_an_acknowledgement_and_nothing_else(self, tmp_path, kind):
        batch = {"batch_id": "00000000-0000-4000-8000-000000000001", "session_id": "s", "events": []}
        with Receiver(db=tmp_path / "r.db") as receiver, FaultProxy(receiver.url) as proxy:
            path = "/api/ingest/batch"
            right = json.loads(call(proxy.url, "POST", path, batch)[1])
            proxy.set("wrong_counts", kind=kind)
            status, body, _ = call(proxy.url, "POST", path, batch)
            assert status == 200
            assert json.dumps(json.loads(body)) != json.dumps(right)
            assert call(proxy.url, "GET", "/health")[0] == 200

    def test_wrong_length_announces_fewer_bytes_than_come_or_more(self, proxy):
        proxy.set("wrong_length", delta=-5)
        with pytest.raises(ValueError):
            json.loads(create(proxy.url)[1])
        proxy.set("wrong_length", delta=5)
        with pytest.raises(TimeoutError):
            create(proxy.url, timeout=0.2)

    @pytest.mark.parametrize("kind", ["gzip", "body", "headers"])
    def test_a_bomb_does_not_end(self, proxy, kind):
        proxy.set("bomb", kind=kind)
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            got = 0
            while got < 3_000_000:
                got += len(connection.recv(65536))

    def test_a_plan_is_followed_request_by_request_and_then_the_mode_that_is_set(self, proxy):
        proxy.plan([("status", {"code": 503}), ("empty204", {})])
        assert [create(proxy.url)[0] for _ in range(3)] == [503, 204, 200]
        assert proxy.counts == {"status": 1, "empty204": 1, "pass": 1}

    def test_an_endless_plan_is_drawn_from_step_by_step_until_a_mode_is_set(self, proxy):
        proxy.plan(("status", {"code": code}) for code in count(500))
        assert [create(proxy.url)[0] for _ in range(3)] == [500, 501, 502]
        proxy.set("pass")
        assert create(proxy.url)[0] == 200

    def test_the_proxy_does_not_keep_requests_if_remember_is_false(self, platform):
        with FaultProxy(platform.url, remember=False) as proxy:
            create(proxy.url)
            assert (proxy.requests, proxy.counts) == ([], {"pass": 1})

    def test_an_unknown_mode_or_option_fails_at_once(self, proxy):
        with pytest.raises(KeyError):
            proxy.set("nonsense")
        with pytest.raises(TypeError):
            proxy.set("hang", minutes=3)
        with pytest.raises(AssertionError):
            proxy.plan([("refuse", {})])

    def test_a_client_that_leaves_in_the_middle_ends_its_thread(self, proxy):
        before = set(threading.enumerate())
        with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n")
            until(lambda: set(threading.enumerate()) - before)
        until(lambda: not set(threading.enumerate()) - before)

    def test_closing_is_quick_whatever_hangs_and_leaves_no_thread(self):
        before = set(threading.enumerate())
        with FaultProxy() as proxy:
            connections = []
            for mode, options in [("hang", {}), ("drip", {"interval": 60, "commit": False}), ("no_read", {})]:
                proxy.set(mode, **options)
                connection = socket.create_connection(("127.0.0.1", proxy.port))
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                until(lambda wanted=mode: proxy.counts[wanted])
                connections.append(connection)
            started = time.monotonic()
        assert time.monotonic() - started < 30  # the answer would take days
        until(lambda: not set(threading.enumerate()) - before, 30)
        for connection in connections:
            connection.close()


class TestChaos:
    def test_a_plan_is_the_same_for_the_same_seed_and_another_for_another(self):
        first, again, other = (list(islice(Chaos(seed, 0.5), 200)) for seed in (1, 1, 2))
        assert first == again != other

    @pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
    def test_about_the_share_that_was_asked_for_meets_a_fault(self, share):
        faults = sum(mode != "pass" for mode, _ in islice(Chaos(3, share), 10_000))
        assert faults / 10_000 == pytest.approx(share, abs=0.05)

    def test_it_draws_what_the_proxy_can_do_and_leaves_out_what_is_tried_again_once_a_minute_only(self, proxy):
        steps = list(islice(Chaos(4, 1.0), 3_000))
        proxy.plan(steps)
        assert {mode for mode, _ in steps} == MODES.keys() - {"pass", "refuse", "redirect"}


class TestProgram:
    def test_a_script_is_dedented_and_finds_the_project_and_its_environment(self):
        result = run_program(
            """
            from __future__ import annotations
            import json, os, sys
            import tests.support.wait
            print("not this line")
            print("aside", file=sys.stderr)
            print(json.dumps({"got": os.environ["GIVEN"]}))
            sys.exit(3)
            """,
            env={"GIVEN": "value"},
        )
        assert result.last_line_json == {"got": "value"}
        assert (result.returncode, result.stderr) == (3, "aside\n")
        assert 0 < result.seconds < 30

    def test_output_that_is_not_json_is_shown_in_full(self):
        with pytest.raises(AssertionError, match="hello"):
            run_program("print('hello')").last_line_json

    def test_a_program_that_does_not_end_is_killed_and_its_output_shown(self):
        for seconds in (1, 5, 30):  # on a busy machine a program may need more than one second to start
            with pytest.raises(AssertionError, match=f"still running after {seconds} s") as told:
                run_program("print('here'); import signal; signal.pause()", timeout=seconds)
            if "out: here" in str(told.value):
                break
        assert "out: here" in str(told.value)

    def test_a_started_program_can_be_sent_a_signal(self):
        process = start_program("import signal; print('ready'); signal.pause()")
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGTERM

    def test_a_spawned_child_finds_the_functions_of_its_program(self):
        result = run_program(
            """
            import multiprocessing

            def twice(number):
                return 2 * number

            if __name__ == "__main__":
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    print(pool.apply(twice, (21,)))
            """
        )
        assert result.last_line_json == 42

    def test_coverage_measures_a_started_program_too(self, tmp_path):
        outer = tmp_path / "outer.py"
        outer.write_text("from tests.support.program import run_program; run_program('import agentscope.errors')")
        variables = {"COVERAGE_FILE": str(tmp_path / "data"), "COVERAGE_PROCESS_CONFIG": ""}
        run("-m", "coverage", "run", f"--rcfile={ROOT}/pyproject.toml", outer, env=variables)
        assert len(list(tmp_path.glob("data.*"))) == 2
