"""What the blocks of a tracker give: a run and a step, to be filled in while the agent works."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from agentscope.events import STEP
from agentscope.pipeline.stats import SAMPLED
from agentscope.protocols.ids import new_id

from .context import REMOTE, Scope, leave
from .fields import Encoded, captured, plain_step

if TYPE_CHECKING:
    from .recorder import Recorder

T = TypeVar("T")


Opened = tuple[Scope, "str | None", "Encoded | None", int, int]
"""What was settled when a step's block began, since nothing that is set on the handle may change it: its scope, its parent, its
input if that is still to be told, and the moment, by the wall clock and by the performance counter in nanoseconds."""


class InProcess:
    """Belongs to this process: a copy is the thing itself, so an agent that is copied goes on recording to the same place."""

    def __copy__(self: T) -> T:
        return self

    def __deepcopy__(self: T, memo: object) -> T:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} cannot be pickled: each process makes its own")


class _Block:
    """Both kinds of `with`. Entering and leaving never raises, and never swallows the block's own exception."""

    _recorder: Recorder | None
    """None: nothing is recorded."""
    _scope: Scope | None = None
    """Set from the beginning of the block to its end, if it is recorded."""
    _entered = False

    def _open(self, recorder: Recorder) -> Scope | None:
        raise NotImplementedError

    def _close(self, recorder: Recorder, error: BaseException | None) -> None:
        raise NotImplementedError

    def _begin(self) -> None:
        recorder = self._recorder
        if recorder is None:
            return
        if self._entered:
            recorder.misused("block_reused", "a block was entered again; each `with` needs a call of its own")
            return
        self._entered = True
        self._scope = self._open(recorder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        recorder, scope = self._recorder, self._scope
        if recorder is None or scope is None:
            return
        self._scope = None
        leave(scope)
        try:
            # A generator that is closed early was not needed to the end: that is no failure.
            self._close(recorder, None if issubclass(type(error), GeneratorExit) else error)
        except Exception:
            if error is None:
                raise  # fail_silently=False; but the block's own exception goes first

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


class Run(_Block, str):
    """A run's id, and what is to be recorded when its block ends.

    Set `output`, `error` (any value; an exception is recorded with its traceback) or `meta_data` at any time before.
    """

    output: Any
    error: Any
    meta_data: Any
    agent_name: Any

    def __new__(
        cls,
        recorder: Recorder | None,
        run_id: str,
        agent_name: Any,
        input_data: Any = None,
        external_id: Any = None,
        meta_data: Any = None,
    ) -> Run:
        run = super().__new__(cls, run_id)
        run._recorder = recorder
        run.agent_name = agent_name
        run._start = (input_data, external_id, meta_data)
        run.output = run.error = run.meta_data = None
        return run

    def __init__(self, *_: Any) -> None:
        self._start: tuple[Any, Any, Any]

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)  # elsewhere it is only an id

    @property
    def id(self) -> str:
        """The id as a plain str."""
        return str.__str__(self)

    def _open(self, recorder: Recorder) -> Scope | None:
        start, self._start = self._start, (None, None, None)
        return recorder.open_run(self, *start)

    def _close(self, recorder: Recorder, error: BaseException | None) -> None:
        recorder.close_run(self, error)

    def __enter__(self) -> Run:
        self._begin()
        return self

    async def __aenter__(self) -> Run:
        self._begin()
        return self


class Step(_Block, InProcess):
    """A step that is going on. Its duration is that of its block, unless `latency_ms` is set.

    Set `output`, `error`, `meta_data`, `usage` (any value), `tokens_used` or `latency_ms` (numbers) before the block ends.
    """

    output: Any = None
    error: Any = None
    meta_data: Any = None
    usage: Any = None
    tokens_used: int | None = None
    latency_ms: float | None = None
    _opened: Opened | None = None

    def __init__(
        self,
        recorder: Recorder | None,
        name: Any,
        step_type: Any,
        input_data: Any = None,
        run_id: Any = None,
        parent_id: Any = None,
    ) -> None:
        began = time.perf_counter_ns()
        self.name = name
        self.step_type = step_type
        self.run_id: str | None = run_id
        """The run this step belongs to; None when no run could be found."""
        self.parent_id: str | None = parent_id
        self._recorder = recorder
        self._input = input_data
        if recorder is None:
            self.id = new_id()
            return
        self.id = recorder.pipeline.new_step_id()
        if not recorder.enabled:
            self._recorder = self.run_id = None
        if not began % SAMPLED:
            recorder.meter.add(time.perf_counter_ns() - began)

    def __repr__(self) -> str:
        return f"<Step {self.id}>"

    # As `_Block` has them, but in as few calls as can be: a step's are made more often than all others, and after a
    # moment of other work, when caches are cold, a call costs more than what is done in it.

    def __enter__(self) -> Step:
        recorder = self._recorder
        if recorder is None:
            return self
        if self._entered:
            self._begin()
            return self
        self._entered = True
        started_at, began = time.time_ns(), time.perf_counter_ns()
        scope = None
        try:
            given, self._input = self._input, None
            if given is not None:
                given = captured(given, recorder.limit)
            scope = recorder.runs.enter_below(self.run_id, self.id) if self.parent_id is None else None
            if scope is not None and scope.outer is not None:
                self.run_id, self.parent_id = scope.run_id, scope.outer.step_id
            else:
                scope = recorder.enter_elsewhere(self)
                if scope is None:
                    return self
            if recorder.announces:
                recorder.announce(self, given)
                given = None
            self._opened = scope, self.parent_id, given, started_at, began
            if not began % SAMPLED:
                recorder.meter.add(time.perf_counter_ns() - began)
        except Exception as error:
            if scope is not None:
                leave(scope)
            recorder._failed("track_step_context", error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened, recorder = self._opened, self._recorder
        if opened is None or recorder is None:
            return
        ended = time.perf_counter_ns()
        self._opened = None
        try:
            scope, parent_id, given, started_at, began = opened
            leave(scope)
            failed, output, elapsed = self.error, self.output, ended - began
            if error is not None and not issubclass(type(error), GeneratorExit):
                failed = error  # but a generator that is closed early was not needed to the end
            plain = None
            if (
                failed is None
                and self.tokens_used is None
                and self.meta_data is None
                and self.usage is None
                and self.latency_ms is None
                and not recorder.announces
            ):
                if output is not None:
                    output = captured(output, recorder.limit)
                plain = plain_step(self.name, self.step_type, started_at, elapsed, given, output)
            if plain is not None:
                size = len(plain.name) + len(plain.input or b"") + len(plain.output or b"")
                if not recorder.pipeline.put(STEP, scope.run_id, scope.step_id, parent_id, plain, size, False):
                    recorder.refused()
            else:
                recorder.put_in_full(self, opened, output, failed, elapsed)
            if not began % SAMPLED:
                recorder.meter.add(time.perf_counter_ns() - ended)
        except Exception as failure:
            if error is None or not recorder.loud:  # the block's own exception goes first
                recorder._failed("track_step_context", failure)

    async def __aenter__(self) -> Step:
        return self.__enter__()


class Extracted(_Block, InProcess):
    """A block, `with` or `async with`, in which the run and step of a request's headers are current.

    `run_id` and `step_id` are None where the headers named none: then the block changes nothing.
    """

    def __init__(self, recorder: Recorder | None, run_id: str | None = None, step_id: str | None = None) -> None:
        self._recorder = recorder if run_id is not None else None
        self.run_id = run_id
        self.step_id = step_id

    def __bool__(self) -> bool:
        return self.run_id is not None

    def _open(self, recorder: Recorder) -> Scope | None:
        return recorder.runs.enter(self.run_id or "", self.step_id, sort=REMOTE)

    def _close(self, recorder: Recorder, error: BaseException | None) -> None:
        """What happens in the sender's run is the sender's to say."""

    def __enter__(self) -> Extracted:
        self._begin()
        return self

    async def __aenter__(self) -> Extracted:
        self._begin()
        return self
