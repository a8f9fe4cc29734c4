"""The handles of steps: of a block, and of a step that is ended by hand."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import ref

from agentscope.events import PAYLOAD, STEP, STEP_END, STEP_FIELDS, STEP_START, RunStatus
from agentscope.pipeline.stats import SAMPLED
from agentscope.protocols.ids import new_id
from agentscope.serialization.foreign import is_hosts

from .context import Scope, current, enter_again, leave, make_current, switch
from .fields import Encoded, Fields, captured, outcome, plain_step
from .handles import Block, InProcess
from .never_raise import safe
from .recorder import NO_MORE, Recorder, id_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from agentscope.events import StepFields
    from agentscope.pipeline.open_items import StepStart

_KNOWN = frozenset({"name", "step_type", "id", "run_id", "parent_id", "output", "error", "meta_data"})
"""Public attributes of a step that are recorded by name."""
_PLAIN = 1
"""The number of attributes in the `__dict__` of a handle in its block while no field is set: `_opened` only."""

Opened = tuple[Scope, "str | None", "Encoded | None", int, int]
"""The values fixed at the beginning of a step's block, which attributes of the handle do not change: the scope, the parent, the
input if it is not sent yet, and the time by the wall clock and by the performance counter, in nanoseconds."""


class Step(Block, InProcess):
    """A step that is going on. Its duration is that of its block, unless `latency_ms` is set.

    Set `output`, `error`, `meta_data`, `usage` (any value), `model`, `provider` (texts), `tokens_used`, `latency_ms`,
    `cost_usd` or `first_token_ms` (numbers) before the block ends. An attribute of another name is not recorded; it is
    counted as an invalid call.
    """

    # The handle's own state is in slots, so that the size of `__dict__` shows whether a field was set.
    __slots__ = ("_entered", "_input", "_recorder", "id", "name", "parent_id", "run_id", "step_type")

    output: Any = None
    error: Any = None
    meta_data: Any = None
    usage: Any = None
    tokens_used: int | None = None
    latency_ms: float | None = None
    model: str | None = None
    provider: str | None = None
    cost_usd: float | None = None
    first_token_ms: float | None = None
    _opened: Opened | None = None
    _given: Mapping[str, tuple[Any, Encoded]] = NO_MORE
    """The payloads that were given when the step was made, by field: the value, and its JSON at that moment."""

    def __init__(
        self,
        recorder: Recorder | None,
        name: Any,
        step_type: Any,
        input_data: Any = None,
        run_id: Any = None,
        parent_id: Any = None,
        step_id: Any = None,
    ) -> None:
        began = time.perf_counter_ns()
        self.name = name
        self.step_type = step_type
        self.run_id: str | None = run_id
        """The run this step belongs to; None when no run could be found."""
        self.parent_id: str | None = parent_id
        self._recorder = recorder
        self._input = None
        self._entered = False
        if recorder is None:
            self.id = id_of(step_id) or new_id()
            return
        self.id = recorder.pipeline.new_step_id() if step_id is None else id_of(step_id) or new_id()
        if not recorder.enabled:
            self._recorder = self.run_id = None
        elif input_data is not None:
            self._input = captured(input_data, recorder.limit, recorder.pipeline.sealing)
        if not began % SAMPLED:
            recorder.meter.add(time.perf_counter_ns() - began)

    def __repr__(self) -> str:
        return f"<Step {self.id}>"

    def _give(self, field: str, value: Any) -> None:
        """Set a field. A payload is recorded as it is now, unless the attribute is set again."""
        setattr(self, field, value)
        if self._recorder is not None and STEP_FIELDS[field].type == PAYLOAD:
            self._given = {**self._given, field: (value, captured(value, self._recorder.limit, False))}

    def _value(self, field: str) -> Any:
        """Return the value of a field: the encoded one if the attribute was not set again."""
        value = getattr(self, field)
        given, taken = self._given.get(field, (None, None))
        return taken if given is value else value

    def __reduce__(self) -> Any:
        # In another process it is an id, and records nothing.
        return type(self), (None, None, "other", None, self.run_id, self.parent_id, self.id)

    # The methods of `Block` again, with fewer calls: steps are the most frequent blocks, and with cold caches a call costs more
    # than its work.

    def __enter__(self) -> Step:
        recorder = self._recorder
        if recorder is None or self._entered:
            return self._enter_again()
        self._entered = True
        started_at, began = time.time_ns(), time.perf_counter_ns()
        try:
            given, self._input = self._input, None
            outer = recorder.runs.surrounding(self.run_id) if self.parent_id is None else None
            scope: Scope | None
            if outer is not None:
                self.run_id, self.parent_id = outer.run_id, outer.step_id
                scope = Scope(outer.run, outer.run_id, self.id, outer)
                scope.token = make_current(scope)
            else:
                scope = self._enter_elsewhere(recorder)
                if scope is None:
                    return self
            if recorder.announces:
                self._announce(recorder, given)
                given = None
            self._opened = scope, self.parent_id, given, started_at, began
            recorder.open_steps[self.id] = ref(self)
            if not recorder.open_items.watched:
                recorder.pipeline.watch()
            if not began % SAMPLED:
                recorder.meter.add(time.perf_counter_ns() - began)
            return self
        except BaseException as error:
            self._opened, scope = None, current()
            if scope is not None and scope.step_id == self.id:
                leave(scope)
                if recorder.announces and recorder.pipeline.holds(STEP_START, scope.run_id, self.id):
                    self._put_abandoned(recorder, (scope, self.parent_id, None, started_at, began), error)
            if is_hosts(error):
                raise
            recorder._failed("track_step_context", error)  # type: ignore[arg-type]  # what is no `Exception` is the host's
            return self

    def _end_interrupted(self, error: BaseException) -> None:
        opened, recorder, self._opened = self._opened, self._recorder, None
        if opened is not None and recorder is not None:
            leave(opened[0])
            self._put_abandoned(recorder, opened, error)

    def _end_block(self, error: BaseException | None) -> None:
        opened, recorder = self._opened, self._recorder
        if opened is None or recorder is None:
            return
        ended = time.perf_counter_ns()
        try:
            scope, parent_id, given, started_at, began = opened
            recorder.open_steps.pop(scope.step_id, None)
            leave(scope)
            failed, output, elapsed = self.error, self.output, ended - began
            if error is not None and not issubclass(type(error), GeneratorExit):
                failed = error  # a generator that is closed early is no failure
            plain = None
            # Attributes that are not set are in the class, so the number of the others shows if any but the output is set.
            if failed is None and len(self.__dict__) <= _PLAIN + (output is not None) and not recorder.announces:
                if output is not None:
                    output = captured(output, recorder.limit, recorder.pipeline.sealing)
                plain = plain_step(self.name, self.step_type, started_at, elapsed, given, output)
            if plain is not None:
                size = len(plain[0]) + len(plain[4] or b"") + len(plain[5] or b"")
                accepted = recorder.pipeline.put(STEP, scope.run_id, scope.step_id, parent_id, plain, size, False)
                self._opened = None
                if not accepted:
                    recorder.refused()
            else:
                self._put_in_full(recorder, opened, output, failed, elapsed)
            if not began % SAMPLED:
                recorder.meter.add(time.perf_counter_ns() - ended)
        except Exception as failure:
            if is_hosts(failure):
                raise
            self._opened = None
            if error is None or not recorder.loud:  # the block's own exception goes first
                recorder._failed("track_step_context", failure)

    async def __aenter__(self) -> Step:
        return self.__enter__()

    @property
    def is_open(self) -> bool:
        return self._opened is not None

    @safe(lambda *_: False)
    def end(
        self,
        output: Any = None,
        error: Any = None,
        tokens_used: int | None = None,
        latency_ms: float | None = None,
        meta_data: Any = None,
        **fields: Unpack[StepFields],
    ) -> bool:
        """End the step, in any thread. True if that was accepted. Only the first end counts.

        `error` may be an exception, or any value that describes one. fields: as for `track_step`; all may also be set on the
        handle before.
        """
        recorder = self._recorder
        if recorder is None:
            return False
        opened: Opened | None = self.__dict__.pop("_suspended", None) or self.__dict__.pop("_opened", None)
        if opened is None:
            if self._entered and self.run_id is None:
                return False  # no run could be found for it, which has been reported
            sentence = "end() was called for a step that is not open: it has ended, or its block was not entered"
            recorder.invalid_call("ended_twice", sentence)
            return False
        try:
            elapsed = time.perf_counter_ns() - opened[-1]
            recorder.open_steps.pop(self.id, None)
            leave(opened[0])
            given = {"output": output, "error": error, "tokens_used": tokens_used, "latency_ms": latency_ms}
            for name, value in {**given, "meta_data": meta_data, **fields}.items():
                # An unknown name is reported with the other attributes.
                if value is not None and not name.startswith("_") and (name not in _KNOWN or name in STEP_FIELDS):
                    setattr(self, name, value)
            return self._put_in_full(recorder, opened, self.output, self.error, elapsed)
        except BaseException as interruption:
            if is_hosts(interruption):
                leave(opened[0])
                self._put_abandoned(recorder, opened, interruption if error is None else error)
            raise

    def _enter_again(self) -> Step:
        opened: Opened | None = self.__dict__.get("_suspended")
        if opened is None:
            return super().__enter__()
        before = current()
        try:
            self._opened = (enter_again(opened[0]), *opened[1:])
            del self._suspended
            return self
        except BaseException:
            self._opened = None
            switch(before)
            raise

    def suspend(self) -> bool:
        opened = self._opened
        if opened is None:
            return False
        leave(opened[0])
        self._suspended, self._opened = opened, None
        return True

    def finish(self, error: BaseException | None = None) -> None:
        self._opened = self.__dict__.pop("_suspended", self._opened)
        self.__exit__(None if error is None else type(error), error, None)

    def _enter_elsewhere(self, recorder: Recorder) -> Scope | None:
        """Enter a step that is not simply a part of the current one. None if no run can be found for it."""
        named, place = self.run_id, recorder.place(self.run_id, self.parent_id)
        if place is None:
            self.run_id = self.parent_id = None
            return None
        self.run_id, self.parent_id = run_id, _ = place
        outer = recorder.runs.innermost()
        own_id = outer.run.own_id if outer is not None and outer.run_id == run_id else id_of(named)
        return recorder.runs.enter(run_id, self.id, own_id=own_id)

    def open_since(self) -> int | None:
        """Return when the step began, by `time.perf_counter_ns`; None if it is not open. The worker calls this."""
        opened: Opened | None = self._opened or self.__dict__.get("_suspended")
        return None if opened is None else opened[-1]

    def start_event(self) -> StepStart | None:
        """Return the start of the step; None if it is not open, or its start was sent. The worker calls this."""
        opened: Opened | None = self._opened or self.__dict__.get("_suspended")
        recorder = self._recorder
        if opened is None or recorder is None or recorder.announces:
            return None
        from agentscope.pipeline.open_items import StepStart  # the worker that calls this has imported it

        scope, parent_id, given, started_at, _ = opened
        fields = Fields(recorder.limit, {"status": "running", "started_at": started_at})
        fields.payload("input", given)
        fields.step(self.name, self.step_type, self._given.get("meta_data", (None, None))[1])
        for name in ("model", "provider"):
            fields.name(name, getattr(self, name))
        return StepStart(scope.run_id, scope.step_id or "", parent_id, fields.values, fields.size, started_at)

    def _announce(self, recorder: Recorder, given: Encoded | None) -> None:
        """Send the start of the step at once, for a backend that needs it before the steps inside."""
        values = {"status": "running", "started_at": time.time_ns()}
        fields = Fields(recorder.limit, values, recorder.pipeline.sealing)
        fields.payload("input", given)
        fields.step(self.name, self.step_type, None)
        recorder.put(STEP_START, self.run_id or "", self.id, self.parent_id, fields, urgent=True)

    def _put_in_full(
        self,
        recorder: Recorder,
        opened: Opened,
        output: Any,
        failed: Any,
        elapsed: int,
        status: RunStatus = "completed",
    ) -> bool:
        """Send a step that sets fields beyond those of `PlainFields`, or a field that has to be mended."""
        scope, parent_id, given, started_at, _ = opened
        fields = Fields(recorder.limit, {}, recorder.pipeline.sealing)
        if given is not None:
            fields.payload("input", given)
        fields.step(self.name, self.step_type, self._value("meta_data"))
        if output is not None:
            fields.payload("output", output if type(output) is Encoded else self._value("output"))
        for name in list(self.__dict__):
            if name not in _KNOWN and not name.startswith("_"):
                fields.give(STEP_FIELDS, name, self._value(name))
        values = fields.values
        if failed is None:
            values["status"] = status
        else:
            fields.error(failed)
            values["status"] = outcome(failed)
        values["started_at"] = started_at
        values["ended_at"] = started_at + elapsed
        values.setdefault("latency_ms", elapsed // 1000 / 1000)
        type_, urgent = STEP_END if recorder.announces else STEP, failed is not None
        accepted = recorder.pipeline.put(type_, scope.run_id, scope.step_id, parent_id, values, fields.size, urgent)
        self._opened = None
        # After the event is queued, since these raise with `fail_silently=False`.
        if not accepted:
            recorder.refused()
        if fields.mended:
            recorder.say_mended(fields)
        return accepted

    def _put_abandoned(self, recorder: Recorder, opened: Opened, error: Any) -> None:
        """Send a step whose end the host's exception interrupted, unless it is queued. Fields that its block set are left out."""
        scope, parent_id, given, started_at, began = opened
        type_ = STEP_END if recorder.announces else STEP
        if not recorder.pipeline.holds(type_, scope.run_id, self.id):
            values = {"status": outcome(error), "started_at": started_at}
            values["ended_at"] = started_at + time.perf_counter_ns() - began
            fields = Fields(recorder.limit, values)
            fields.step(self.name, self.step_type, None)
            fields.payload("input", given)
            fields.error(error)
            recorder.pipeline.put(type_, scope.run_id, scope.step_id, parent_id, fields.values, fields.size, True)


class StartedStep(Step):
    """A step that `start_step` began, and that `end` ends. It is not the current step, unless a `with` makes it so.

    Steps become its children by `parent_id=step.id`. A handle that is collected without `end` is recorded as cancelled.
    """

    def start(self) -> None:
        self._pid = os.getpid()
        try:
            self.__enter__()
            self.suspend()
        except BaseException as error:
            self.finish(error)
            raise

    def __del__(self) -> None:
        try:
            opened: Opened | None = self.__dict__.pop("_suspended", None)
            if opened is not None and self._recorder is not None and self._pid == os.getpid():
                elapsed = time.perf_counter_ns() - opened[-1]
                self._put_in_full(self._recorder, opened, self.output, self.error, elapsed, "cancelled")
        except Exception:  # collected anywhere, even during interpreter shutdown
            pass
