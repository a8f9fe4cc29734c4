"""The recorder of a face and its handles: it finds the place of a run or step, and makes its events in the caller's thread."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from agentscope.errors import AgentScopeError
from agentscope.events import RUN_END, RUN_FIELDS, RUN_START, STEP, STEP_END, STEP_FIELDS, STEP_START
from agentscope.pipeline.stats import SAMPLED
from agentscope.protocols.ids import new_id, sampled
from agentscope.serialization.foreign import is_hosts
from agentscope.serialization.snapshot import prepare, text

from .context import MOST_OPEN_RUNS, REMOTE, STARTED, Place, RunState, bounded, current, leave_run, runs_of, switch
from .fields import Fields, outcome

if TYPE_CHECKING:
    from agentscope.config import Config
    from agentscope.pipeline.fanout import FanOut
    from agentscope.pipeline.pipeline import Pipeline
    from agentscope.protocols.trace_context import Remote
    from agentscope.types import FlushResult

LONGEST_ID = 255
NO_MORE: Mapping[str, Any] = MappingProxyType({})


def id_of(value: Any) -> str | None:
    """Return the id that a caller gave as a str; None for None and for an empty one."""
    if type(value) is str and 0 < len(value) <= LONGEST_ID and value.isascii() and "\0" not in value:
        return value  # as it is, nearly always
    return None if value is None else text(value, LONGEST_ID) or None


class Recorder:
    """Turns calls into events of one pipeline. It lives as long as its tracker, or any handle or function that records by it."""

    def __init__(self, config: Config, pipeline: Pipeline | FanOut) -> None:
        prepare()
        self.enabled = config.enabled
        self.limit = config.max_payload_bytes
        """Bytes that one payload field may take."""
        self.runs = runs_of(config.address, config.secrets, config.family)
        self.loud = not config.fail_silently
        self.announces = config.announces
        """The start of a step is an event of its own."""
        self._sample_rate = config.sample_rate
        self.destinations = config.exporters
        self.pipeline = pipeline
        self.meter = pipeline.meter
        self.open_items = pipeline.open_items
        self.open_steps, self.open_runs = self.open_items.steps, self.open_items.runs
        self.origin: Any = None
        """The `Origin` of its tracker, for pickles of what records by it."""
        weakref.finalize(self, pipeline.retire).atexit = False

    def __reduce__(self) -> Any:
        return self.origin.of_recorder()

    def flush(self, timeout: float) -> FlushResult:
        """As a tracker's, but without exceptions."""
        return self.pipeline.flush(timeout)

    async def aflush(self, timeout: float) -> FlushResult:
        """As a tracker's, but without exceptions."""
        return await self.pipeline.aflush(timeout)

    def place(self, run_id: Any, parent_id: Any) -> Place | None:
        """Return the place of a step. If no run can be found, count an invalid call and return None."""
        parent, named = id_of(parent_id), id_of(run_id)
        if named is not None:
            self._check_known(named)
            run, step = self.runs.placed(named)
            return Place(run, parent or self.runs.parent_in(run) or step)
        place = self.runs.place()
        if place is not None:
            return place if parent is None else Place(place.run_id, parent)
        self._say_no_run()
        return None

    def _say_no_run(self) -> None:
        """Count a call for which no run was found in this context."""
        if self.pipeline.closed:
            self._say_closed()
        elif self.runs.nearest() is not None:
            self.invalid_call(
                "run_ended", "the run of this thread or task has ended: what comes after its end needs run_id=…"
            )
        elif self.runs.count():
            self.invalid_call(
                "ambiguous_run",
                "a run is open, but this thread or task did not inherit it, and it may belong to another one: "
                'pass run_id=…, wrap its function in tracker.propagate(), or call tracker.instrument("threads")',
            )
        else:
            self.invalid_call("no_run", "no run is open: call start_run() first, or use `with tracker.track_run(...)`")

    def _check_known(self, run_id: str) -> None:
        if not self.runs.is_open(run_id) and not self.runs.has_ended(run_id):
            self.invalid_call(
                "unknown_run", "a run_id was named that was not started in this process; it is sent all the same"
            )

    def new_step_id(self) -> str:
        """A UUID."""
        return self.pipeline.new_step_id()

    def say_mended(self, fields: Fields) -> None:
        for kind, sentence in fields.mended:
            self.invalid_call(kind, sentence)

    def _say_closed(self) -> None:
        self.invalid_call("after_shutdown", "a call came after shutdown() and is not recorded")

    def put(
        self,
        type_: str,
        run_id: str,
        step_id: str | None,
        parent_id: str | None,
        fields: Fields,
        urgent: bool,
    ) -> bool:
        """Enqueue one event. True if it was accepted."""
        values, size = fields.values, fields.size
        return self.pipeline.put(type_, run_id, step_id, parent_id, values, size, urgent) or self.refused()

    def refused(self) -> bool:
        """Count an invalid call if an event was refused after shutdown. Returns False."""
        if self.pipeline.closed:
            self._say_closed()
        return False

    def inject(self, headers: Any) -> Any:
        from agentscope.protocols.trace_context import STATE, headers_of

        scope = self.runs.innermost()
        if scope is None:
            return headers
        names = {name.lower() if isinstance(name, str) else name: name for name in headers}
        state = headers.get(names.get(STATE, STATE))
        kept = sampled(scope.run_id, self._sample_rate)
        for name, value in headers_of(
            scope.run_id, scope.step_id, kept, state if isinstance(state, str) else None
        ).items():
            headers[names.get(name, name)] = value
        return headers

    def extract(self, headers: Any) -> Remote | None:
        from agentscope.protocols.trace_context import remote_of

        return remote_of(headers) if self.enabled else None

    def current_run_id(self) -> str | None:
        place = self.runs.place()
        return None if place is None else place.run_id

    def invalid_call(self, kind: str, sentence: str) -> None:
        """Count an invalid call and log the first of its kind; with `fail_silently=False` raise."""
        self.pipeline.invalid_call(kind, sentence)
        if self.loud:
            raise AgentScopeError(sentence)

    def _failed(self, call: str, error: Exception) -> None:
        if self.loud:
            raise error
        # Python's own text about arguments that do not fit the signature. It holds no payload.
        trace = error.__traceback__
        unfit = type(error) is TypeError and trace is not None and trace.tb_next is None
        told = text(error, 200) if unfit else type(error).__name__
        self.pipeline.invalid_call("wrong_call", f"{call}() was called wrongly: {told}")

    # ---- calls -----------------------------------------------------------------------------------------------------

    def start_run(
        self, agent_name: Any, input_data: Any, external_id: Any, meta_data: Any, more: Mapping[str, Any]
    ) -> str:
        run_id, scope = new_id(), current()
        try:
            run = self.begin_run(run_id, agent_name, input_data, external_id, meta_data, more)
            if run is not None:
                self.runs.enter_run(run, STARTED)
            return run_id
        except BaseException as error:
            switch(scope)
            self.abandon_run(run_id, error)
            raise

    def end_run(self, status: Any, output: Any, error: Any, run_id: Any) -> bool:
        if not self.enabled:
            return False
        named = id_of(run_id)
        if named is None:
            run = self.runs.to_end()
            if run is None:
                self._say_no_run()
                return False
            if run.is_remote:
                self.invalid_call(
                    "foreign_run", "end_run() found only the run of another process, which is the sender's to end"
                )
                return False
            named = run.own_id
        if not self.runs.is_open(named):
            if self.runs.has_ended(named):
                self.invalid_call("run_ended", "end_run() was called again for a run that has ended")
                return False
            self._check_known(named)
        began = time.perf_counter_ns()
        try:
            fields = self.end_fields(status, output, error)
            if fields.mended:
                self.say_mended(fields)
            accepted = self.put_end(named, fields)
            if not began % SAMPLED:
                self.meter.add(time.perf_counter_ns() - began)
            return accepted
        except BaseException as interruption:
            if is_hosts(interruption):  # and not of wrong arguments
                self.abandon_run(named, error, status)
            raise

    def track_step(
        self,
        name: Any,
        step_type: Any,
        input_data: Any,
        output_data: Any,
        error: Any,
        tokens_used: Any,
        latency_ms: Any,
        meta_data: Any,
        run_id: Any,
        parent_id: Any,
        step_id: Any,
        more: Mapping[str, Any],
    ) -> bool:
        if not self.enabled:
            return False
        began = time.perf_counter_ns()
        outer = self.runs.surrounding(run_id) if parent_id is None else None
        if outer is not None:
            run_id, parent_id = outer.run_id, outer.step_id
        else:
            place = self.place(run_id, parent_id)
            if place is None:
                return False
            run_id, parent_id = place
        pipeline = self.pipeline
        now = started_at = time.time_ns()
        fields = Fields(self.limit, {}, pipeline.sealing)
        # Whatever the caller passes, the start lies between that of the run and now: with a latency that is only estimated,
        # steps would change places where they are shown in order.
        if latency_ms is not None:
            fields.number("latency_ms", latency_ms, 3)
            earliest = min(self.runs.started_at(run_id), now)
            started_at = min(max(now - int(fields.values.get("latency_ms", 0) * 1e6), earliest), now)
        if input_data is not None:
            fields.payload("input", input_data)
        fields.step(name, step_type, meta_data)
        values = fields.values
        if output_data is not None:
            fields.payload("output", output_data)
        if tokens_used is not None:
            fields.number("tokens_used", tokens_used)
        if more:
            for field, value in more.items():
                fields.give(STEP_FIELDS, field, value)
        if error is None:
            values["status"] = "completed"
        else:
            fields.error(error)
            values["status"] = outcome(error)
        values["started_at"], values["ended_at"] = started_at, now
        if fields.mended:
            self.say_mended(fields)
        step_id = (None if step_id is None else id_of(step_id)) or pipeline.new_step_id()
        accepted = pipeline.put(STEP, run_id, step_id, parent_id, values, fields.size, error is not None)
        if not began % SAMPLED:
            self.meter.add(time.perf_counter_ns() - began)
        return accepted or self.refused()

    # ---- inside ----------------------------------------------------------------------------------------------------

    def begin_run(
        self,
        run_id: str,
        agent_name: Any,
        input_data: Any,
        external_id: Any,
        meta_data: Any,
        more: Mapping[str, Any] = NO_MORE,
    ) -> RunState | None:
        """Record the start of a run. None if nothing can be recorded."""
        if not self.enabled:
            return None
        began = time.perf_counter_ns()
        values: dict[str, Any] = {"status": "running", "started_at": time.time_ns()}
        fields = Fields(self.limit, values, self.pipeline.sealing)
        fields.name("agent_name", agent_name, default="unknown")
        if external_id is not None:
            fields.name("external_id", external_id)
        if input_data is not None:
            fields.payload("input", input_data)
        if meta_data is not None:
            fields.payload("meta_data", meta_data)
        if more:
            for field, value in more.items():
                fields.give(RUN_FIELDS, field, value)
        if fields.mended:
            self.say_mended(fields)
        begun = self.begin(run_id, fields, None if current() is None else self._surroundings())
        if not began % SAMPLED:
            self.meter.add(time.perf_counter_ns() - began)
        return begun

    def begin(self, run_id: str, fields: Fields, within: Place | None = None) -> RunState | None:
        """Record the start of a run. `within` another run it is a step of type agent. None if nothing can be recorded."""
        values = fields.values
        if within is None:
            accepted = self.pipeline.put(RUN_START, run_id, None, None, values, fields.size, True)
        else:
            values.update(name=values.pop("agent_name"), step_type="agent")
            self.runs.joined(run_id, within, values["name"])
            accepted = self.pipeline.put(STEP_START, within.run_id, run_id, within.parent_id, values, fields.size, True)
        if not accepted and self.pipeline.closed:
            self._say_closed()
            return None
        run = self.runs.opened(run_id, values["started_at"])
        if accepted:
            self.open_runs[run_id] = run
            if len(self.open_runs) > MOST_OPEN_RUNS:
                bounded(self.open_runs, MOST_OPEN_RUNS)
        return run

    def _surroundings(self) -> Place | None:
        """Return the place of a new run inside the run of another process; None if no such run is current."""
        scope = self.runs.innermost()
        return Place(scope.run_id, scope.step_id) if scope is not None and scope.sort == REMOTE else None

    def end_fields(self, status: Any, output: Any, error: Any) -> Fields:
        fields = Fields(self.limit, {"ended_at": time.time_ns()}, self.pipeline.sealing)
        fields.status(status, error)
        if output is not None:
            fields.payload("output", output)
        if error is not None:
            fields.error(error)
        return fields

    def put_end(self, run_id: str, fields: Fields) -> bool:
        within, values = self.runs.within(run_id), fields.values
        if within is None:
            accepted = self.pipeline.put(RUN_END, run_id, None, None, values, fields.size, True)
        else:
            values.setdefault("started_at", self.runs.started_at(run_id) or values["ended_at"])
            values.update(name=within.name, step_type="agent")
            place = within.place
            accepted = self.pipeline.put(STEP_END, place.run_id, run_id, place.parent_id, values, fields.size, True)
        self._forget(run_id)
        return accepted or self.refused()

    def abandon_run(self, run_id: str, error: Any, status: Any = "completed") -> None:
        """End a run after an exception of the host's interrupted its start or its end, unless the end is queued already."""
        within = self.runs.within(run_id)
        start, end, own, step_id = (
            (RUN_START, RUN_END, run_id, None)
            if within is None
            else (STEP_START, STEP_END, within.place.run_id, run_id)
        )
        begun = self.runs.is_open(run_id) or self.pipeline.holds(start, own, step_id)
        if begun and not self.pipeline.holds(end, own, step_id):
            self.put_end(run_id, self.end_fields(status, None, error))
        elif begun or self.runs.has_ended(run_id):
            self._forget(run_id)

    def _forget(self, run_id: str) -> None:
        """Mark a run as ended, and make it no longer current."""
        self.open_runs.pop(run_id, None)
        self.runs.ended(run_id)
        leave_run(self.runs, run_id)
