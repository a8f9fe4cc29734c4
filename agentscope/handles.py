"""What the blocks of a tracker give: a run and a step, to be filled in while the agent works."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Protocol

from .context import Scope, leave


class Recorder(Protocol):
    """What handles ask of their tracker. None of it raises."""

    def _open_run(self, run: Run) -> Scope | None: ...

    def _close_run(self, run: Run, error: BaseException | None) -> None: ...

    def _open_step(self, step: Step) -> Scope | None: ...

    def _close_step(self, step: Step, error: BaseException | None) -> None: ...

    def _enter(self, run_id: str | None, step_id: str | None) -> Scope | None: ...


class _Block:
    """Both kinds of `with`. Entering and leaving never raises, and never swallows the block's own exception."""

    _scope: Scope | None = None

    def _open(self) -> Scope | None:
        raise NotImplementedError

    def _close(self, error: BaseException | None) -> None:
        raise NotImplementedError

    def _resume(self) -> None:
        """Make this current again, after `_suspend`: a generator's block is left while its consumer works."""
        raise NotImplementedError

    def _suspend(self) -> None:
        if self._scope is not None:
            leave(self._scope)
            self._scope = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._suspend()
        try:
            # A generator that is closed early was not needed to the end: that is no failure.
            self._close(None if isinstance(error, GeneratorExit) else error)
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
        cls, recorder: Recorder, run_id: str, agent_name: Any, input_data: Any, external_id: Any, meta_data: Any
    ) -> Run:
        run = super().__new__(cls, run_id)
        run._recorder = recorder
        run._scope = None
        run.agent_name = agent_name
        run._start = (input_data, external_id, meta_data)
        run.output = run.error = run.meta_data = None
        return run

    def __init__(self, *_: Any) -> None:
        self._recorder: Recorder
        self._start: tuple[Any, Any, Any]

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)  # elsewhere it is only an id

    @property
    def id(self) -> str:
        """The id as a plain str."""
        return str.__str__(self)

    def _open(self) -> Scope | None:
        return self._recorder._open_run(self)

    def _close(self, error: BaseException | None) -> None:
        self._recorder._close_run(self, error)

    def _resume(self) -> None:
        self._scope = self._recorder._enter(self.id, None)

    def __enter__(self) -> Run:
        self._scope = self._open()
        return self

    async def __aenter__(self) -> Run:
        return self.__enter__()


class Step(_Block):
    """A step that is going on. Its duration is that of its block, unless `latency_ms` is set.

    Set `output`, `error`, `meta_data`, `usage` (any value), `tokens_used` or `latency_ms` (numbers) before the block ends.
    """

    def __init__(
        self,
        recorder: Recorder,
        step_id: str,
        name: Any,
        step_type: Any,
        input_data: Any,
        run_id: str | None,
        parent_id: str | None,
    ) -> None:
        self.id = step_id
        self.name = name
        self.step_type = step_type
        self.run_id = run_id
        """The run this step belongs to; None before the block begins, and when no run could be found."""
        self.parent_id = parent_id
        self.output: Any = None
        self.error: Any = None
        self.meta_data: Any = None
        self.usage: Any = None
        self.tokens_used: int | None = None
        self.latency_ms: float | None = None
        self._recorder = recorder
        self._fields: dict[str, Any] = {"input": input_data}
        self._scope: Scope | None = None
        self._started_at = 0
        self._began = 0

    def __repr__(self) -> str:
        return f"<Step {self.id}>"

    def _open(self) -> Scope | None:
        self._started_at = time.time_ns()
        self._began = time.perf_counter_ns()
        return self._recorder._open_step(self)

    def _close(self, error: BaseException | None) -> None:
        self._recorder._close_step(self, error)

    def _resume(self) -> None:
        self._scope = self._recorder._enter(self.run_id, self.id)

    def __enter__(self) -> Step:
        self._scope = self._open()
        return self

    async def __aenter__(self) -> Step:
        return self.__enter__()
