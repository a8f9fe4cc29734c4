"""What a face and its handles record: where a run or a step belongs, and its events, made in the caller's thread."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any

from . import context
from .config import Config
from .context import Place, Scope
from .errors import AgentScopeError
from .events import RUN_END, RUN_START, STEP, STEP_END, STEP_START
from .guarding import safe
from .handles import OpenStep, Run, Step
from .protocols.trace_context import STATE, Remote, headers_of, remote_of
from .recording import Fields
from .snapshot import text
from .types import RunStatus

if TYPE_CHECKING:
    from .pipeline import Pipeline
    from .pipeline.fanout import FanOut

LONGEST_ID = 255


class Recorder:
    """Turns calls into events of one pipeline. It lives as long as its tracker, or any handle or function that records by it."""

    def __init__(self, config: Config, pipeline: Pipeline | FanOut) -> None:
        self.enabled = config.enabled
        self.limit = config.max_payload_bytes
        """Bytes that one payload field may take."""
        self.runs = context.runs_of(config.address, config.secrets, config.family)
        self._loud = not config.fail_silently
        self._announces = config.announces
        self._sample_rate = config.sample_rate
        self._pipeline = pipeline
        weakref.finalize(self, pipeline.retire).atexit = False

    # ---- calls -----------------------------------------------------------------------------------------------------

    def start_run(self, agent_name: Any, input_data: Any, external_id: Any, meta_data: Any) -> str:
        run_id = context.new_id()
        if self._begin_run(run_id, agent_name, input_data, external_id, meta_data):
            place = self.runs.placed(run_id)
            self.runs.enter(*place, loose=True, opened_as=run_id)
        return run_id

    def end_run(self, status: Any, output: Any, error: Any, run_id: Any) -> bool:
        if not self.enabled:
            return False
        named = _id(run_id)
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
        elif self.runs.has_ended(named):
            self.misused("run_ended", "end_run() was called again for a run that has ended")
            return False
        else:
            self._check_known(named)
        fields = self._end(status, output, error, None)
        self.say_mended(fields)
        return self._put_end(named, fields)

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
        place = self.place(run_id, parent_id)
        if place is None:
            return False
        now = time.time_ns()
        fields = Fields(self.limit, {"status": "completed" if error is None else "failed"})
        fields.milliseconds("latency_ms", latency_ms)
        # Whatever the caller says, the start lies between that of the run and now: with a latency that is only estimated,
        # steps would change places where they are shown in order.
        earliest = min(self.runs.started_at(place.run_id), now)
        fields.values["started_at"] = min(max(now - int(fields.values.get("latency_ms", 0) * 1e6), earliest), now)
        fields.values["ended_at"] = now
        fields.payload("input", input_data)
        fields.step(name, step_type, output_data, error, tokens_used, meta_data)
        self.say_mended(fields)
        return self.put(STEP, place.run_id, self._pipeline.new_step_id(), place.parent_id, fields, error is not None)

    def new_run(self, agent_name: Any, input_data: Any = None, external_id: Any = None, meta_data: Any = None) -> Run:
        recorder = self if self.enabled else None
        return Run(recorder, context.new_id(), agent_name, input_data, external_id, meta_data)

    def new_step(
        self, name: Any, step_type: Any, input_data: Any = None, run_id: Any = None, parent_id: Any = None
    ) -> Step:
        recorder = self if self.enabled else None
        return Step(recorder, self._pipeline.new_step_id(), name, step_type, input_data, run_id, parent_id)

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

    @safe(lambda *_: None)
    def open_step(self, step: Step, input_data: Any) -> OpenStep | None:
        """The block of `step` begins, and it gets its place; None if there is none."""
        place = self.place(step.run_id, step.parent_id)
        step.run_id, step.parent_id = (None, None) if place is None else place
        if place is None:
            return None
        fields = Fields(self.limit, {})
        fields.payload("input", input_data)
        if self._announces:
            fields = self._announce(step, place, fields)
        outer = self.runs.innermost()
        opened_as = outer.opened_as if outer is not None and outer.run_id == place.run_id else None
        return OpenStep(self.runs.enter(place.run_id, step.id, opened_as=opened_as), step.id, place, fields)

    @safe(lambda *_: None)
    def close_step(
        self, step: Step, opened: OpenStep, started_at: int, elapsed: int, error: BaseException | None
    ) -> None:
        """The block of `step` ends. `started_at` and `elapsed` are in nanoseconds."""
        _, step_id, place, fields = opened
        failed = error if error is not None else step.error
        fields.values["status"] = "completed" if failed is None else "failed"
        fields.milliseconds("latency_ms", elapsed / 1e6 if step.latency_ms is None else step.latency_ms)
        fields.values["started_at"] = started_at
        fields.values["ended_at"] = started_at + elapsed
        fields.payload("usage", step.usage)
        fields.step(step.name, step.step_type, step.output, failed, step.tokens_used, step.meta_data)
        # What was wrong is said afterwards: a block's work must not be lost over it.
        type_ = STEP_END if self._announces else STEP
        self.put(type_, place.run_id, step_id, place.parent_id, fields, failed is not None)
        self.say_mended(fields)

    def _announce(self, step: Step, place: Place, fields: Fields) -> Fields:
        """Send the start of a step by itself, for a backend that has to know it before what is inside.

        Gives the fields of its end.
        """
        fields.values["status"] = "running"
        fields.values["started_at"] = time.time_ns()
        fields.step(step.name, step.step_type, None, None, None, None)
        self.put(STEP_START, place.run_id, step.id, place.parent_id, fields, urgent=True)
        return Fields(self.limit, {})

    def inject(self, headers: Any) -> Any:
        place = self.runs.place()
        if place is None:
            return headers
        names = {name.lower() if isinstance(name, str) else name: name for name in headers}
        state = headers.get(names.get(STATE, STATE))
        sampled = context.sampled(place.run_id, self._sample_rate)
        for name, value in headers_of(*place, sampled, state if isinstance(state, str) else None).items():
            headers[names.get(name, name)] = value
        return headers

    def extract(self, headers: Any) -> Remote | None:
        return remote_of(headers) if self.enabled else None

    def current_run_id(self) -> str | None:
        place = self.runs.place()
        return None if place is None else place.run_id

    def misused(self, kind: str, sentence: str) -> None:
        """Count a call that could not be recorded as it was meant, and say so once; with `fail_silently=False` raise."""
        self._pipeline.misused(kind, sentence)
        if self._loud:
            raise AgentScopeError(sentence)

    def _failed(self, call: str, error: Exception) -> None:
        if self._loud:
            raise error
        # The interpreter's own words on a call that does not fit; they hold no payload.
        trace = error.__traceback__
        unfit = type(error) is TypeError and trace is not None and trace.tb_next is None
        told = text(error, 200) if unfit else type(error).__name__
        self._pipeline.misused("wrong_call", f"{call}() was called wrongly: {told}")

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _begin_run(self, run_id: str, agent_name: Any, input_data: Any, external_id: Any, meta_data: Any) -> bool:
        if not self.enabled:
            return False
        fields = Fields(self.limit, {"status": "running", "started_at": time.time_ns()})
        fields.name("agent_name", agent_name, default="unknown")
        fields.name("external_id", external_id)
        fields.payload("input", input_data)
        fields.payload("meta_data", meta_data)
        self.say_mended(fields)
        return self.begin(run_id, fields, self._surroundings())

    def begin(self, run_id: str, fields: Fields, within: Place | None = None) -> bool:
        """Record the start of a run; `within` another one it is a step there, an agent's. False if nothing can be recorded."""
        if within is None:
            self.put(RUN_START, run_id, None, None, fields, urgent=True)
        else:
            values = fields.values
            values.update(name=values.pop("agent_name"), step_type="agent")
            self.runs.joined(run_id, within, values["name"])
            self.put(STEP_START, within.run_id, run_id, within.parent_id, fields, urgent=True)
        if self._pipeline.closed:
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
        fields.payload("output", output)
        fields.error(error)
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

    def place(self, run_id: Any, parent_id: Any) -> Place | None:
        """Where a step belongs; None, and said, if no run can be found."""
        parent, named = _id(parent_id), _id(run_id)
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
        elif self._pipeline.closed:
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
        return self._pipeline.new_step_id()

    def say_mended(self, fields: Fields) -> None:
        for kind, sentence in fields.mended:
            self.misused(kind, sentence)

    def _say_closed(self) -> None:
        self.misused("after_shutdown", "a call came after shutdown() and is not recorded")

    def put(
        self, type_: str, run_id: str, step_id: str | None, parent_id: str | None, fields: Fields, urgent: bool
    ) -> bool:
        """Enqueue one event, unless its run is sampled out. True if it was accepted."""
        if not context.sampled(run_id, self._sample_rate):
            self._pipeline.sampled_out()
            return False
        if self._pipeline.closed:
            self._say_closed()
        return self._pipeline.put(type_, run_id, step_id, parent_id, fields.values, fields.size, urgent)


def _id(value: Any) -> str | None:
    """An id that a caller named; None if it named none, or an empty one."""
    return None if value is None else text(value, LONGEST_ID) or None
