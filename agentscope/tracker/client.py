"""The synchronous client: each call is one request to the platform, and returns when it has been answered.

A tracker is the better choice for an agent: its calls do not wait. This client is for scripts that need to know at once
whether a record was stored. It makes the classic calls (`protocols.agentscope.classic`), which every deployed platform takes.
"""

from __future__ import annotations

import operator
import os
import time
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import quote

from agentscope import config as _config
from agentscope.errors import AgentScopeError, APIError, AuthenticationError
from agentscope.exporters.base import NO_KEY, key_for
from agentscope.exporters.http.transport import Transport
from agentscope.options import DEFAULT_BASE_URL, MiB
from agentscope.pipeline.reporting import logger
from agentscope.protocols.agentscope.classic import run_record, step_record, update_record
from agentscope.protocols.base import Failure
from agentscope.protocols.headers import AGENTSCOPE_KEY
from agentscope.protocols.ids import new_id
from agentscope.protocols.responses import detail, is_denial, json_object
from agentscope.serialization.foreign import called, is_hosts
from agentscope.serialization.snapshot import encode, text
from agentscope.types import JSONDict, RunConfig, RunStatus, StepConfig

_MAX_PAYLOAD_BYTES = MiB
_MAX_TEXT = 1 << 16
"""Characters of a text that are kept here. The columns of the platform hold fewer, and `meta_data` notes a cut to their size."""


class AgentScopeClient:
    """Stores runs and steps on an AgentScope platform, one request a call.

    api_key: default `AGENTSCOPE_API_KEY`; a receiver on this machine needs none.
    base_url: default `AGENTSCOPE_BASE_URL`, else `http://localhost:8000`.
    timeout: seconds for one request as a whole, from 0.05 to 600.
    fail_silently: True logs a failure in one line and returns None or False; False raises `APIError` for it, and
    `AgentScopeError` for a wrong argument.

    `AuthenticationError` is raised for a refused key whatever `fail_silently` says, and `ConfigurationError` for an
    option that cannot work. Nothing is sent twice: a call whose answer was lost may have been stored all the same.
    Payloads may be any values; what is not JSON is rendered. Threads may share a client, and a forked child opens its
    own connections.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float = 30,
        fail_silently: bool = True,
    ) -> None:
        self.base_url: str = _option("base_url", base_url)
        self._api_key = key_for(self.base_url, api_key, "api_key", _config.env_name("api_key")) or ""
        self.timeout: float = _option("timeout", timeout)
        self.fail_silently: bool = _option("fail_silently", fail_silently)
        self._transport = self._new_transport()
        self._pid = os.getpid()

    @property
    def api_key(self) -> str:
        """The key; empty if none was given."""
        return self._api_key

    def create_run(self, config: RunConfig) -> str | None:
        """Create a run and return the id that the platform gave it; None if that failed silently."""
        try:
            lossy: list[str] = []
            fields = {
                "agent_name": _text(config.agent_name),
                "external_id": _text(config.external_id),
                "input": _payload("input", config.input, lossy),
                "meta_data": _payload("meta_data", config.meta_data, lossy),
            }
            body = run_record(fields, _notes(lossy))
        except Exception as error:
            if is_hosts(error):
                raise
            self._failed(_misuse("create_run(config)", error))
            return None
        answer = self._call("POST", "/api/ingest/run", body)
        if answer is None:
            return None
        run_id = answer.get("id")
        if not isinstance(run_id, str) or not run_id:
            self._failed(APIError("create_run: the platform's answer names no run: check base_url"))
            return None
        return run_id

    def add_step(self, run_id: str, config: StepConfig) -> bool:
        """Add a finished step to a run. A naive `started_at` or `ended_at` is taken for UTC.

        A step type that platforms do not know travels as "custom", and itself in `meta_data.step_type`.
        """
        try:
            lossy: list[str] = []
            fields: dict[str, Any] = {
                name: _payload(name, getattr(config, name), lossy) for name in ("input", "output", "error", "meta_data")
            }
            fields |= {name: _text(getattr(config, name)) for name in ("name", "step_type")}
            fields |= {name: _number(getattr(config, name)) for name in ("tokens_used", "latency_ms")}
            fields |= {name: _moment(getattr(config, name)) for name in ("started_at", "ended_at")}
            path = f"{_run_path(run_id)}/step"
            body = step_record(fields, _notes(lossy))
        except Exception as error:
            if is_hosts(error):
                raise
            self._failed(_misuse("add_step(run_id, config)", error))
            return False
        return self._call("POST", path, body) is not None

    def complete_run(
        self,
        run_id: str,
        status: RunStatus = "completed",
        output: JSONDict | None = None,
        error: JSONDict | None = None,
    ) -> bool:
        """Set a run's final status, its output and its error; it ends now."""
        try:
            fields = {
                "status": _text(status),
                "output": _payload("output", output, []),
                "error": _payload("error", error, []),
                "ended_at": time.time_ns(),
            }
            path = _run_path(run_id)
            body = update_record(fields)
        except Exception as problem:
            if is_hosts(problem):
                raise
            self._failed(_misuse("complete_run(run_id, status)", problem))
            return False
        return self._call("PATCH", path, body) is not None

    def close(self) -> None:
        """Close the connections. A call after this opens new ones."""
        self._transport.close()

    def __enter__(self) -> AgentScopeClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        options = f"base_url={self.base_url!r}, timeout={self.timeout!r}, fail_silently={self.fail_silently!r}"
        return f"AgentScopeClient(api_key=…, {options})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an AgentScopeClient cannot be copied or pickled: it holds a key and connections; create another"
        )

    def _new_transport(self) -> Transport:
        headers = {AGENTSCOPE_KEY: self._api_key or NO_KEY, "Content-Type": "application/json"}
        return Transport(self.base_url, headers)

    def _call(self, method: str, path: str, body: bytes) -> dict[str, Any] | None:
        if self._pid != os.getpid():
            # After a fork both processes hold the same sockets: their requests would mix.
            self._transport, self._pid = self._new_transport(), os.getpid()
        answer = self._exchange(method, path, body)
        if isinstance(answer, AgentScopeError):
            self._failed(answer)
            return None
        return answer

    def _exchange(self, method: str, path: str, body: bytes) -> dict[str, Any] | AgentScopeError:
        headers = {"Idempotency-Key": new_id()}
        reply = self._transport.send(method, path, body, headers, self.timeout)
        if isinstance(reply, Failure):
            return APIError(f"{method} failed: {reply.sentence}")
        if reply.status in (401, 403):
            return AuthenticationError(f"the platform refuses the API key (HTTP {reply.status}): check api_key")
        if 300 <= reply.status < 400:
            sentence = f"the platform redirects (HTTP {reply.status}), which is never followed: check base_url"
            return APIError(sentence, reply.status)
        if not 200 <= reply.status < 300:
            # An answer may quote the request, and with it the key.
            sentence = detail(reply, (self._api_key,))
            return APIError(f"{method} was refused: {sentence}", reply.status)
        answer = json_object(reply)
        if answer is None:
            sentence = f"the answer (HTTP {reply.status}) is not one of an AgentScope platform: check base_url"
            return APIError(sentence, reply.status)
        if is_denial(answer):
            return APIError(f"{method} was refused: {detail(reply, (self._api_key,))}", reply.status)
        return answer

    def _failed(self, error: AgentScopeError) -> None:
        if isinstance(error, AuthenticationError) or not self.fail_silently:
            raise error from None
        logger.warning("not recorded: %s", error)


def _option(name: str, value: Any) -> Any:
    source = "argument"
    if value is None:
        value, source = _config.from_env(name), f"environment variable {_config.env_name(name)}"
    if value is None:
        return DEFAULT_BASE_URL
    return _config.CHECKS[name](value, name, source)


def _text(value: object) -> str | None:
    return None if value is None else text(value, _MAX_TEXT)


def _payload(name: str, value: object, lossy: list[str]) -> bytes | None:
    if value is None:
        return None
    encoded, cut = encode(value, _MAX_PAYLOAD_BYTES)
    if cut:
        lossy.append(name)
    return encoded


def _number(value: Any) -> float | str | None:
    if value is None or isinstance(value, float):
        return value
    number = called(partial(operator.index, value), None)
    return text(value, _MAX_TEXT) if number is None else number


def _moment(value: object) -> str | None:
    return value.isoformat() if isinstance(value, datetime) else _text(value)


def _notes(lossy: list[str]) -> Mapping[str, Any]:
    return {"agentscope_truncated": lossy} if lossy else {}


def _run_path(run_id: object) -> str:
    # "." and ".." are steps in a path, however they are quoted.
    if not isinstance(run_id, str) or run_id in ("", ".", ".."):
        raise ValueError("run_id must be what create_run returned")
    return f"/api/ingest/run/{quote(run_id, safe='', errors='replace')}"


def _misuse(call: str, error: Exception) -> AgentScopeError:
    reason = str(error) if isinstance(error, (AttributeError, ValueError)) else type(error).__name__
    return AgentScopeError(f"{call} cannot take this: {text(reason, 200)}")
