"""What the blocks of a tracker give: a run and a step, to be filled in while the agent works."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from .context import REMOTE, Scope, leave
from .recording import Fields

if TYPE_CHECKING:
    from .recorder import Recorder

T = TypeVar("T")


Opened = tuple[Scope, "str | None", Fields, int, int]
"""What was settled when a step's block began, since nothing that is set on the handle may change it: its scope, its parent, its
fields so far, and the moment, by the wall clock and by the performance counter in nanoseconds."""


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
        step_id: str,
        name: Any,
        step_type: Any,
        input_data: Any = None,
        run_id: Any = None,
        parent_id: Any = None,
    ) -> None:
        self.id = step_id
        self.name = name
        self.step_type = step_type
        self.run_id: str | None = run_id if recorder is not None else None
        """The run this step belongs to; None when no run could be found."""
        self.parent_id: str | None = parent_id
        self._recorder = recorder
        self._input = input_data

    def __repr__(self) -> str:
        return f"<Step {self.id}>"

    # As `_Block` has them, but in fewer calls: a step's are made more often than all others.

    def __enter__(self) -> Step:
        recorder = self._recorder
        if recorder is not None:
            if self._entered:
                self._begin()
            else:
                self._entered = True
                given, self._input = self._input, None
                self._opened = recorder.open_step(self, given)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened, recorder = self._opened, self._recorder
        if opened is None or recorder is None:
            return
        self._opened = None
        if error is None:
            recorder.close_step(self, opened, None)
            return
        try:
            # A generator that is closed early was not needed to the end: that is no failure.
            recorder.close_step(self, opened, None if issubclass(type(error), GeneratorExit) else error)
        except Exception:
            pass  # with fail_silently=False; the block's own exception goes first

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
