"""The AgentScope face: runs and steps, recorded by calls that only enqueue."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from . import context
from .config import Config, OnDrop, Redact
from .context import Place, Scope
from .delivery import pipeline_for
from .errors import AgentScopeError, APIError, AuthenticationError
from .events import RUN_END, RUN_START, STEP
from .handles import Run, Step
from .observe import observed, propagated
from .recording import Fields
from .snapshot import text
from .types import FlushResult, RunStatus, Stats, StepType

if TYPE_CHECKING:
    from .client import AgentScopeClient

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

LONGEST_ID = 255


def _safe(
    fallback: Callable[[Tracker], R],
) -> Callable[[Callable[Concatenate[Tracker, P], R]], Callable[Concatenate[Tracker, P], R]]:
    """A public call: what goes wrong in it is counted and said, and the agent goes on with what `fallback` gives."""

    def around(method: Callable[Concatenate[Tracker, P], R]) -> Callable[Concatenate[Tracker, P], R]:
        @wraps(method)
        def call(self: Tracker, /, *args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                if not self._config.fail_silently:
                    raise
                self._pipeline.misused("wrong_call", f"{method.__name__}() was called wrongly: {type(error).__name__}")
                return fallback(self)

        return call

    return around


def _no_scope(_: Tracker) -> Scope | None:
    return None


class Tracker:
    """Records runs and their steps. No call waits for the network, and none raises, unless `fail_silently=False`.

    Every option may also come from the environment (`AGENTSCOPE_` and its name in capitals); `agentscope.config.Config` has
    their meaning, units and defaults. `ConfigurationError` is raised for a value that cannot work. A `client` lends its key,
    address, timeout and `fail_silently` where they are not given.

    A worker thread starts with the first event. `with Tracker(...) as tracker:` shuts it down at the end; otherwise what is
    left is delivered when the tracker is collected, or at exit.
    """

    def __init__(
        self,
        client: AgentScopeClient | None = None,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        batch_size: int | None = None,
        flush_interval: float | None = None,
        timeout: float | None = None,
        fail_silently: bool | None = None,
        enabled: bool | None = None,
        sample_rate: float | None = None,
        max_queue_bytes: int | None = None,
        max_batch_bytes: int | None = None,
        max_payload_bytes: int | None = None,
        max_connections: int | None = None,
        shutdown_timeout: float | None = None,
        redact: Redact | None = None,
        on_drop: OnDrop | None = None,
    ) -> None:
        options = {name: value for name, value in locals().items() if name not in ("self", "client")}
        if client is not None:
            for name in ("api_key", "base_url", "timeout", "fail_silently"):
                if options[name] is None:
                    options[name] = getattr(client, name)
        self.client = client
        self._config = Config.load(options)
        self._limit = self._config.max_payload_bytes
        self._runs = context.runs_of(self._config.base_url, self._config.api_key)
        self._pipeline = pipeline_for(self._config)
        weakref.finalize(self, self._pipeline.retire).atexit = False

    # ---- runs ------------------------------------------------------------------------------------------------------

    @_safe(lambda self: context.new_id())
    def start_run(
        self, agent_name: str, input_data: Any = None, external_id: str | None = None, meta_data: Any = None
    ) -> str:
        """Start a run and make it the current one of this context, until `end_run`. Returns its id, made here."""
        run_id = context.new_id()
        if self._begin_run(run_id, agent_name, input_data, external_id, meta_data):
            self._runs.enter(run_id, loose=True)
        return run_id

    @_safe(lambda self: False)
    def end_run(
        self, status: RunStatus = "completed", output: Any = None, error: Any = None, run_id: str | None = None
    ) -> bool:
        """End a run: the one named, else the current one. True if that was accepted.

        `error` may be an exception, or any value that tells of one.
        """
        if not self._config.enabled:
            return False
        if run_id is None:
            place = self._place(None, None)
            if place is None:
                return False
            run_id = place.run_id
        else:
            run_id = text(run_id, LONGEST_ID)
            if self._runs.has_ended(run_id):
                self._misused("run_ended", "end_run() was called again for a run that has ended")
                return False
            self._check_known(run_id)
        return self._end_run(run_id, status, output, error, None)

    def track_run(
        self, agent_name: str, input_data: Any = None, external_id: str | None = None, meta_data: Any = None
    ) -> Run:
        """A block, `with` or `async with`, that is a run. It gives the run's id, a `Run`: set `output` on it.

        An exception that leaves the block ends the run as failed, and goes on unchanged.
        """
        return Run(self, context.new_id(), agent_name, input_data, external_id, meta_data)

    # ---- steps -----------------------------------------------------------------------------------------------------

    @_safe(lambda self: False)
    def track_step(
        self,
        name: str,
        step_type: StepType = "other",
        input_data: Any = None,
        output_data: Any = None,
        error: Any = None,
        tokens_used: int | None = None,
        latency_ms: float | None = None,
        meta_data: Any = None,
        run_id: str | None = None,
        parent_id: str | None = None,
    ) -> bool:
        """Record a step that is over, in the run named or else the current one. True if it was accepted.

        `latency_ms` is how long it took, in milliseconds; `parent_id` the step it is part of, else the current one.
        """
        if not self._config.enabled:
            return False
        place = self._place(run_id, parent_id)
        if place is None:
            return False
        now = time.time_ns()
        fields = Fields(self._limit, {"name": "", "status": "completed" if error is None else "failed"})
        fields.number("latency_ms", latency_ms)
        fields.values["started_at"] = now - max(fields.values.get("latency_ms", 0), 0) * 1_000_000
        fields.values["ended_at"] = now
        fields.payload("input", input_data)
        return self._step(
            fields, place, self._pipeline.new_step_id(), name, step_type, output_data, error, tokens_used, meta_data
        )

    def track_step_context(
        self,
        name: str,
        step_type: StepType = "other",
        input_data: Any = None,
        output_data: Any = None,
        tokens_used: int | None = None,
        latency_ms: float | None = None,
        meta_data: Any = None,
        run_id: str | None = None,
        parent_id: str | None = None,
    ) -> Step:
        """A block, `with` or `async with`, that is a step; steps inside it become its children. It gives a `Step`.

        Its duration is measured. An exception that leaves the block is recorded, and goes on unchanged.
        """
        step = Step(self, self._pipeline.new_step_id(), name, step_type, input_data, run_id, parent_id)
        step.output, step.meta_data = output_data, meta_data
        step.tokens_used, step.latency_ms = tokens_used, latency_ms
        return step

    # ---- functions -------------------------------------------------------------------------------------------------

    @overload
    def observe(
        self,
        function: F,
        /,
        *,
        name: str | None = None,
        step_type: StepType = "other",
        capture_input: bool = True,
        capture_output: bool = True,
    ) -> F: ...

    @overload
    def observe(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        step_type: StepType = "other",
        capture_input: bool = True,
        capture_output: bool = True,
    ) -> Callable[[F], F]: ...

    def observe(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        step_type: StepType = "other",
        capture_input: bool = True,
        capture_output: bool = True,
    ) -> Any:
        """Decorate a function, coroutine, generator or async generator: every call is a step, or a run if none is open.

        Arguments (without `self` and `cls`) and result are recorded unless `capture_input` or `capture_output` is False.
        """

        def decorate(function: Any) -> Any:
            return observed(self, function, name, step_type, capture_input, capture_output)

        return decorate if function is None else decorate(function)

    def propagate(self, function: F) -> F:
        """`function` with the run and step that are current now: for a thread, which inherits no context by itself."""
        carried: F = propagated(function)
        return carried

    # ---- delivery --------------------------------------------------------------------------------------------------

    def flush(self, timeout: float = 30.0) -> FlushResult:
        """Wait until everything accepted so far is delivered, for `timeout` seconds at most.

        The result is true only if all of it was acknowledged and nothing was dropped since the last flush. With
        `fail_silently=False` anything else raises `AuthenticationError` or `APIError`.
        """
        return self._checked(self._pipeline.flush(timeout))

    def shutdown(self, timeout: float = 10.0) -> FlushResult:
        """Deliver what is left and end the worker; nothing can be recorded afterwards. Happens at exit by itself.

        Goes on for `timeout` seconds as long as acknowledgements come in, and gives up after 2 s without one. What is left
        then is counted as dropped.
        """
        return self._checked(self._pipeline.shutdown(timeout))

    async def aflush(self, timeout: float = 30.0) -> FlushResult:
        """`flush` without blocking the event loop."""
        return await asyncio.to_thread(self.flush, timeout)

    async def ashutdown(self, timeout: float = 10.0) -> FlushResult:
        """`shutdown` without blocking the event loop."""
        return await asyncio.to_thread(self.shutdown, timeout)

    def stats(self) -> Stats:
        """The ledger at this moment."""
        return self._pipeline.stats()

    @property
    def current_run_id(self) -> str | None:
        """The run that a step tracked here and now would belong to."""
        place = self._runs.place()
        return None if place is None else place.run_id

    @property
    def payload_limit(self) -> int:
        """Bytes that one payload field may take (`max_payload_bytes`)."""
        return self._limit

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    async def __aenter__(self) -> Tracker:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.ashutdown()

    def __repr__(self) -> str:
        return f"<Tracker to {self._config.base_url}>"

    def __copy__(self) -> Tracker:
        return self

    def __deepcopy__(self, memo: object) -> Tracker:
        return self  # an agent that is copied goes on recording to the same place

    def __reduce__(self) -> Any:
        raise TypeError("a Tracker cannot be pickled: make one in each process with create_tracker()")

    # ---- what handles ask for --------------------------------------------------------------------------------------

    @_safe(_no_scope)
    def _open_run(self, run: Run) -> Scope | None:
        begun = self._begin_run(run.id, run.agent_name, *run._start)
        return self._runs.enter(run.id) if begun else None

    @_safe(lambda self: None)
    def _close_run(self, run: Run, error: BaseException | None) -> None:
        if self._runs.is_open(run.id):
            failed = error if error is not None else run.error
            status: RunStatus = "completed" if failed is None else "failed"
            self._end_run(run.id, status, run.output, failed, run.meta_data)

    @_safe(_no_scope)
    def _open_step(self, step: Step) -> Scope | None:
        if not self._config.enabled:
            step.run_id = None
            return None
        place = self._place(step.run_id, step.parent_id)
        if place is None:
            step.run_id = None
            return None
        step.run_id, step.parent_id = place
        fields = Fields(self._limit, {})
        fields.payload("input", step._fields["input"])
        step._fields = {"fields": fields}
        return self._runs.enter(place.run_id, step.id)

    @_safe(lambda self: None)
    def _close_step(self, step: Step, error: BaseException | None) -> None:
        fields = step._fields.get("fields")
        if step.run_id is None or fields is None:
            return
        elapsed = time.perf_counter_ns() - step._began
        failed = error if error is not None else step.error
        fields.values["status"] = "completed" if failed is None else "failed"
        fields.number("latency_ms", elapsed / 1e6 if step.latency_ms is None else step.latency_ms)
        fields.values["started_at"] = step._started_at
        fields.values["ended_at"] = step._started_at + elapsed
        fields.payload("usage", step.usage)
        place = Place(step.run_id, step.parent_id)
        self._step(
            fields, place, step.id, step.name, step.step_type, step.output, failed, step.tokens_used, step.meta_data
        )

    def _enter(self, run_id: str | None, step_id: str | None) -> Scope | None:
        return None if run_id is None or not self._config.enabled else self._runs.enter(run_id, step_id)

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _begin_run(self, run_id: str, agent_name: Any, input_data: Any, external_id: Any, meta_data: Any) -> bool:
        if not self._config.enabled:
            return False
        fields = Fields(self._limit, {"status": "running", "started_at": time.time_ns()})
        fields.name("agent_name", agent_name)
        fields.name("external_id", external_id)
        fields.payload("input", input_data)
        fields.payload("meta_data", meta_data)
        self._put(RUN_START, run_id, None, None, fields, urgent=True)
        self._runs.opened(run_id)
        return True

    def _end_run(self, run_id: str, status: Any, output: Any, error: Any, meta_data: Any) -> bool:
        fields = Fields(self._limit, {"ended_at": time.time_ns()})
        fields.status(status, failed=error is not None)
        fields.payload("output", output)
        fields.error(error)
        fields.payload("meta_data", meta_data)
        accepted = self._put(RUN_END, run_id, None, None, fields, urgent=True)
        self._runs.ended(run_id)
        context.leave_run(self._runs, run_id)
        return accepted

    def _step(
        self,
        fields: Fields,
        place: Place,
        step_id: str,
        name: Any,
        step_type: Any,
        output: Any,
        error: Any,
        tokens_used: Any,
        meta_data: Any,
    ) -> bool:
        fields.name("name", name)
        fields.step_type(step_type, meta_data)
        fields.payload("output", output)
        fields.error(error)
        fields.number("tokens_used", tokens_used)
        return self._put(STEP, place.run_id, step_id, place.parent_id, fields, urgent=error is not None)

    def _place(self, run_id: Any, parent_id: Any) -> Place | None:
        """Where a step belongs; None, and said, if no run can be found."""
        parent = None if parent_id is None else text(parent_id, LONGEST_ID)
        if run_id is not None:
            run_id = text(run_id, LONGEST_ID)
            self._check_known(run_id)
            return Place(run_id, self._runs.parent_in(run_id) if parent is None else parent)
        place = self._runs.place()
        if place is not None:
            return place if parent is None else Place(place.run_id, parent)
        if self._runs.count() > 1:
            self._misused(
                "ambiguous_run",
                "several runs are open and this thread or task inherited none of them: "
                "pass run_id=…, or wrap its function in tracker.propagate()",
            )
        elif self._pipeline.closed:
            self._misused("after_shutdown", "a call came after shutdown() and is not recorded")
        else:
            self._misused("no_run", "no run is open: call start_run() first, or use `with tracker.track_run(...)`")
        return None

    def _check_known(self, run_id: str) -> None:
        if not self._runs.is_open(run_id) and not self._runs.has_ended(run_id):
            self._misused(
                "unknown_run", "a run_id was named that was not started in this process; it is sent all the same"
            )

    def _put(
        self, type_: str, run_id: str, step_id: str | None, parent_id: str | None, fields: Fields, urgent: bool
    ) -> bool:
        for kind, sentence in fields.mended:
            self._misused(kind, sentence)
        if not context.sampled(run_id, self._config.sample_rate):
            self._pipeline.sampled_out()
            return False
        if self._pipeline.closed:
            self._misused("after_shutdown", "a call came after shutdown() and is not recorded")
        return self._pipeline.put(type_, run_id, step_id, parent_id, fields.values, fields.size, urgent)

    def _misused(self, kind: str, sentence: str) -> None:
        self._pipeline.misused(kind, sentence)
        if not self._config.fail_silently:
            raise AgentScopeError(sentence)

    def _checked(self, result: FlushResult) -> FlushResult:
        if result or self._config.fail_silently:
            return result
        problem = result.problem or "not everything was delivered"
        sentence = f"{problem} ({result.pending} events pending, {result.dropped} dropped)"
        raise AuthenticationError(sentence) if "API key" in problem else APIError(sentence)


RunTracker = Tracker


def create_tracker(
    api_key: str | None = None,
    base_url: str | None = None,
    *,
    batch_size: int | None = None,
    flush_interval: float | None = None,
    timeout: float | None = None,
    fail_silently: bool | None = None,
    enabled: bool | None = None,
    sample_rate: float | None = None,
    max_queue_bytes: int | None = None,
    max_batch_bytes: int | None = None,
    max_payload_bytes: int | None = None,
    max_connections: int | None = None,
    shutdown_timeout: float | None = None,
    redact: Redact | None = None,
    on_drop: OnDrop | None = None,
) -> Tracker:
    """A `Tracker` for this key and address; each option may also come from the environment, or be left at its default.

    Raises `ConfigurationError` for a value that cannot work.
    """
    return Tracker(**locals())
