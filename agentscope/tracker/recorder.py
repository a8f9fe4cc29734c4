"""What a face and its handles record: where a run or a step belongs, and its events, made in the caller's thread."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any

from agentscope.errors import AgentScopeError
from agentscope.events import RUN_END, RUN_START, STEP, STEP_END, STEP_START, RunStatus
from agentscope.pipeline.stats import SAMPLED
from agentscope.protocols.ids import new_id, sampled
from agentscope.serialization.snapshot import prepare, text

from . import context
from .context import Place, Scope
from .fields import Encoded, Fields
from .handles import Opened, Run, Step
from .never_raise import safe

if TYPE_CHECKING:
    from agentscope.config import Config
    from agentscope.pipeline.fanout import FanOut
    from agentscope.pipeline.pipeline import Pipeline
    from agentscope.protocols.trace_context import Remote

LONGEST_ID = 255


class Placing:
    """What a `Recorder` stands on: one pipeline, and the runs that are open."""

    def __init__(self, config: Config, pipeline: Pipeline | FanOut) -> None:
        prepare()
        self.enabled = config.enabled
        self.limit = config.max_payload_bytes
        """Bytes that one payload field may take."""
        self.runs = context.runs_of(config.address, config.secrets, config.family)
        self.loud = not config.fail_silently
        self.announces = config.announces
        """Whether the start of a step is sent by itself."""
        self._sample_rate = config.sample_rate
        self.pipeline = pipeline
        self.meter = pipeline.meter
        weakref.finalize(self, pipeline.retire).atexit = False

    def place(self, run_id: Any, parent_id: Any) -> Place | None:
        """Where a step belongs; None, and said, if no run can be found."""
        parent, named = id_of(parent_id), id_of(run_id)
        if named is not None:
            self._check_known(named)
            run, step = self.runs.placed(named)
            return Place(run, parent or self.runs.parent_in(run) or step)
        place = self.runs.place()
        if place is not None:
            return place if parent is None else Place(place.run_id, parent)
        if self.runs.count() > 1:
            self.misused(
                "ambiguous_run",
                "several runs are open and this thread or task inherited none of them: "
                "pass run_id=…, or wrap its function in tracker.propagate()",
            )
        elif self.pipeline.closed:
            self._say_closed()
        else:
            self.misused("no_run", "no run is open: call start_run() first, or use `with tracker.track_run(...)`")
        return None

    def _check_known(self, run_id: str) -> None:
        if not self.runs.is_open(run_id) and not self.runs.has_ended(run_id):
            self.misused(
                "unknown_run", "a run_id was named that was not started in this process; it is sent all the same"
            )

    def new_step_id(self) -> str:
        """A UUID."""
        return self.pipeline.new_step_id()

    def say_mended(self, fields: Fields) -> None:
        for kind, sentence in fields.mended:
            self.misused(kind, sentence)

    def _say_closed(self) -> None:
        self.misused("after_shutdown", "a call came after shutdown() and is not recorded")

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
        """Say so if an event was not accepted because this has been shut down. False."""
        if self.pipeline.closed:
            self._say_closed()
        return False

    def inject(self, headers: Any) -> Any:
        from agentscope.protocols.trace_context import STATE, headers_of

        place = self.runs.place()
        if place is None:
            return headers
        names = {name.lower() if isinstance(name, str) else name: name for name in headers}
        state = headers.get(names.get(STATE, STATE))
        kept = sampled(place.run_id, self._sample_rate)
        for name, value in headers_of(*place, kept, state if isinstance(state, str) else None).items():
            headers[names.get(name, name)] = value
        return headers

    def extract(self, headers: Any) -> Remote | None:
        from agentscope.protocols.trace_context import remote_of

        return remote_of(headers) if self.enabled else None

    def current_run_id(self) -> str | None:
        place = self.runs.place()
        return None if place is None else place.run_id

    def misused(self, kind: str, sentence: str) -> None:
        """Count a call that could not be recorded as it was meant, and say so once; with `fail_silently=False` raise."""
        self.pipeline.misused(kind, sentence)
        if self.loud:
            raise AgentScopeError(sentence)

    def _failed(self, call: str, error: Exception) -> None:
        if self.loud:
            raise error
        # The interpreter's own words on a call that does not fit; they hold no payload.
        trace = error.__traceback__
        unfit = type(error) is TypeError and trace is not None and trace.tb_next is None
        told = text(error, 200) if unfit else type(error).__name__
        self.pipeline.misused("wrong_call", f"{call}() was called wrongly: {told}")


def id_of(value: Any) -> str | None:
    """An id that a caller named; None if it named none, or an empty one."""
    if type(value) is str and 0 < len(value) <= LONGEST_ID and value.isascii() and "\0" not in value:
        return value  # as it is, nearly always
    return None if value is None else text(value, LONGEST_ID) or None


class Recorder(Placing):
    """Turns calls into events of one pipeline. It lives as long as its tracker, or any handle or function that records by it."""

    # ---- calls -----------------------------------------------------------------------------------------------------

    def start_run(self, agent_name: Any, input_data: Any, external_id: Any, meta_data: Any) -> str:
        run_id = new_id()
        if self._begin_run(run_id, agent_name, input_data, external_id, meta_data):
            place = self.runs.placed(run_id)
            self.runs.enter(*place, loose=True, opened_as=run_id)
        return run_id

    def end_run(self, status: Any, output: Any, error: Any, run_id: Any) -> bool:
        if not self.enabled:
            return False
        named = id_of(run_id)
        if named is None:
            place = self.place(None, None)
            if place is None:
                return False
            named = self.runs.to_end(place)
            if named is None:
                self.misused(
                    "foreign_run", "end_run() found only the run of another process, which is the sender's to end"
                )
                return False
        elif not self.runs.is_open(named):
            if self.runs.has_ended(named):
                self.misused("run_ended", "end_run() was called again for a run that has ended")
                return False
            self._check_known(named)
        began = time.perf_counter_ns()
        fields = self._end(status, output, error, None)
        if fields.mended:
            self.say_mended(fields)
        accepted = self._put_end(named, fields)
        if not began % SAMPLED:
            self.meter.add(time.perf_counter_ns() - began)
        return accepted

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
        fields = Fields(self.limit, {})
        # Whatever the caller says, the start lies between that of the run and now: with a latency that is only estimated,
        # steps would change places where they are shown in order.
        if latency_ms is not None:
            fields.milliseconds("latency_ms", latency_ms)
            earliest = min(self.runs.started_at(run_id), now)
            started_at = min(max(now - int(fields.values.get("latency_ms", 0) * 1e6), earliest), now)
        if input_data is not None:
            fields.payload("input", input_data)
        fields.step(name, step_type, output_data, error, tokens_used, meta_data)
        values = fields.values
        values["status"] = "completed" if error is None else "failed"
        values["started_at"], values["ended_at"] = started_at, now
        if fields.mended:
            self.say_mended(fields)
        step_id = pipeline.new_step_id()
        accepted = pipeline.put(STEP, run_id, step_id, parent_id, values, fields.size, error is not None)
        if not began % SAMPLED:
            self.meter.add(time.perf_counter_ns() - began)
        return accepted or self.refused()

    def new_run(self, agent_name: Any, input_data: Any = None, external_id: Any = None, meta_data: Any = None) -> Run:
        recorder = self if self.enabled else None
        return Run(recorder, new_id(), agent_name, input_data, external_id, meta_data)

    def new_step(self, name: Any, step_type: Any, input_data: Any = None) -> Step:
        return Step(self, name, step_type, input_data)

    # ---- asked by handles ------------------------------------------------------------------------------------------

    @safe(lambda *_: None)
    def open_run(self, run: Run, input_data: Any, external_id: Any, meta_data: Any) -> Scope | None:
        """The block of `run` begins; None if nothing of it will be recorded."""
        begun = self._begin_run(run.id, run.agent_name, input_data, external_id, meta_data)
        return self.runs.enter(*self.runs.placed(run.id), opened_as=run.id) if begun else None

    @safe(lambda *_: None)
    def close_run(self, run: Run, error: BaseException | None) -> None:
        """The block of `run` ends."""
        if self.runs.has_ended(run.id):
            return  # by end_run(), inside its block
        failed = error if error is not None else run.error
        status: RunStatus = "completed" if failed is None else "failed"
        self._put_end(run.id, self._end(status, run.output, failed, run.meta_data))

    def enter_elsewhere(self, step: Step) -> Scope | None:
        """Enter a step that is not simply part of what is current, and say where it is then; None if it is nowhere."""
        place = self.place(step.run_id, step.parent_id)
        if place is None:
            step.run_id = step.parent_id = None
            return None
        step.run_id, step.parent_id = run_id, _ = place
        outer = self.runs.innermost()
        opened_as = outer.opened_as if outer is not None and outer.run_id == run_id else None
        return self.runs.enter(run_id, step.id, opened_as=opened_as)

    def put_in_full(self, step: Step, opened: Opened, output: Any, failed: Any, elapsed: int) -> None:
        """Send a step of which more is told than of most, or that has something to be mended."""
        scope, parent_id, given, started_at, _ = opened
        fields = Fields(self.limit, {})
        if given is not None:
            fields.payload("input", given)
        if step.latency_ms is not None:
            fields.milliseconds("latency_ms", step.latency_ms)
        if step.usage is not None:
            fields.payload("usage", step.usage)
        fields.step(step.name, step.step_type, output, failed, step.tokens_used, step.meta_data)
        values = fields.values
        values["status"] = "completed" if failed is None else "failed"
        values["started_at"] = started_at
        values["ended_at"] = started_at + elapsed
        values.setdefault("latency_ms", elapsed // 1000 / 1000)
        type_ = STEP_END if self.announces else STEP
        # What was wrong is said afterwards: a block's work must not be lost over it.
        self.put(type_, scope.run_id, scope.step_id, parent_id, fields, failed is not None)
        if fields.mended:
            self.say_mended(fields)

    def announce(self, step: Step, given: Encoded | None) -> None:
        """Send the start of a step by itself, for a backend that has to know it before what is inside."""
        fields = Fields(self.limit, {"status": "running", "started_at": time.time_ns()})
        fields.payload("input", given)
        fields.step(step.name, step.step_type, None, None, None, None)
        self.put(STEP_START, step.run_id or "", step.id, step.parent_id, fields, urgent=True)

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _begin_run(self, run_id: str, agent_name: Any, input_data: Any, external_id: Any, meta_data: Any) -> bool:
        if not self.enabled:
            return False
        began = time.perf_counter_ns()
        values: dict[str, Any] = {"status": "running", "started_at": time.time_ns()}
        fields = Fields(self.limit, values)
        fields.name("agent_name", agent_name, default="unknown")
        if external_id is not None:
            fields.name("external_id", external_id)
        if input_data is not None:
            fields.payload("input", input_data)
        if meta_data is not None:
            fields.payload("meta_data", meta_data)
        if fields.mended:
            self.say_mended(fields)
        begun = self.begin(run_id, fields, None if context.current() is None else self._surroundings())
        if not began % SAMPLED:
            self.meter.add(time.perf_counter_ns() - began)
        return begun

    def begin(self, run_id: str, fields: Fields, within: Place | None = None) -> bool:
        """Record the start of a run; `within` another one it is a step there, an agent's. False if nothing can be recorded."""
        if within is None:
            accepted = self.put(RUN_START, run_id, None, None, fields, urgent=True)
        else:
            values = fields.values
            values.update(name=values.pop("agent_name"), step_type="agent")
            self.runs.joined(run_id, within, values["name"])
            accepted = self.put(STEP_START, within.run_id, run_id, within.parent_id, fields, urgent=True)
        if not accepted and self.pipeline.closed:
            return False
        self.runs.opened(run_id, fields.values["started_at"])
        return True

    def _surroundings(self) -> Place | None:
        """The step of another process that a run is begun in: there it belongs."""
        scope = self.runs.innermost()
        return Place(scope.run_id, scope.step_id) if scope is not None and scope.sort == context.REMOTE else None

    def _end(self, status: Any, output: Any, error: Any, meta_data: Any) -> Fields:
        fields = Fields(self.limit, {"ended_at": time.time_ns()})
        fields.status(status, failed=error is not None)
        if output is not None:
            fields.payload("output", output)
        if error is not None:
            fields.error(error)
        if meta_data is not None:
            fields.payload("meta_data", meta_data)
        return fields

    def _put_end(self, run_id: str, fields: Fields) -> bool:
        within = self.runs.within(run_id)
        try:
            if within is None:
                return self.put(RUN_END, run_id, None, None, fields, urgent=True)
            fields.values.setdefault("started_at", self.runs.started_at(run_id) or fields.values["ended_at"])
            fields.values.update(name=within.name, step_type="agent")
            place = within.place
            return self.put(STEP_END, place.run_id, run_id, place.parent_id, fields, urgent=True)
        finally:
            self.runs.ended(run_id)
            context.leave_run(self.runs, run_id)
