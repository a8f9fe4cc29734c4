"""Runs that dependencies of FastAPI open, with several requests at once."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import agentscope
from tests.support.documents import ROOT, text_of
from tests.support.recording import Recording, recorded
from tests.support.servers import needs

pytestmark = needs("fastapi")

AT_ONCE = 4


def answers(app: Any, path: str, rounds: int = 2) -> list[Any]:
    """The answers to several requests at once, after one alone."""
    import httpx

    async def main() -> list[Any]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app.test") as client:
            found = [(await client.get(path)).json()]
            for _ in range(rounds):
                found += [answer.json() for answer in await asyncio.gather(*(client.get(path) for _ in range(AT_ONCE)))]
            return found

    return asyncio.run(main())


def assert_each_run_has_its_own_step(recording: Recording) -> None:
    runs = [event["run_id"] for event in recording.events("run.start")]
    assert Counter(step["run_id"] for step in recording.steps()) == dict.fromkeys(runs, 1)
    assert len(recording.events("run.end")) == len(runs) == 1 + 2 * AT_ONCE
    assert recording.invalid_calls == {}


def test_the_form_in_the_guide_records_each_request_in_its_own_run() -> None:
    (program,) = re.findall(r"```py\n(.*?)```", text_of(ROOT / "examples" / "servers.md"), re.DOTALL)
    for path in ("/", "/plain"):
        with recorded() as recording, patch.object(agentscope, "create_tracker", lambda: recording.tracker):
            names: dict[str, Any] = {}
            exec(program, names)
            assert answers(names["app"], path) == [True] * (1 + 2 * AT_ONCE)
            assert_each_run_has_its_own_step(recording)


def application(recording: Recording, named: bool) -> Any:
    from fastapi import Depends, FastAPI

    tracker, app = recording.tracker, FastAPI()

    def traced() -> Any:
        with tracker.track_run("request") as run:
            yield run

    @app.get("/")
    async def endpoint(run: Any = Depends(traced)) -> Any:
        await asyncio.sleep(0)  # another request gets its turn
        return tracker.track_step(str(uuid4()), run_id=run if named else None)

    return app


def test_a_plain_dependency_works_after_instrument() -> None:
    with recorded() as recording:
        undo = recording.tracker.instrument("threads")
        try:
            assert answers(application(recording, named=False), "/") == [True] * (1 + 2 * AT_ONCE)
        finally:
            undo()
        assert_each_run_has_its_own_step(recording)


def test_a_plain_dependency_works_where_the_endpoint_names_its_run() -> None:
    with recorded() as recording:
        assert answers(application(recording, named=True), "/") == [True] * (1 + 2 * AT_ONCE)
        assert_each_run_has_its_own_step(recording)


def test_without_either_no_step_lands_in_the_run_of_another_request() -> None:
    with recorded() as recording:
        found = answers(application(recording, named=False), "/")
        assert found[1:] == [False] * (2 * AT_ONCE)
        assert recording.invalid_calls == {"ambiguous_run": 2 * AT_ONCE}
