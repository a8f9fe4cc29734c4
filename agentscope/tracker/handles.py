"""The handle of a run, the block of a request's headers, and the base of all blocks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TypeVar

from agentscope.events import PAYLOAD, RUN_FIELDS
from agentscope.serialization.foreign import is_hosts
from agentscope.serialization.text import text

from .context import REMOTE, Scope, current, leave, switch
from .fields import LONGEST_SHOWN, Encoded, captured
from .never_raise import safe
from .recorder import NO_MORE, Recorder

T = TypeVar("T")
B = TypeVar("B", bound="Block")

_RUN_KNOWN = frozenset({"agent_name", "output", "error"})
"""Public attributes of a run that are recorded by name."""


def _taken(recorder: Recorder, value: Any) -> Encoded | None:
    """Encode a payload when a block is made. Later changes of the value do not count."""
    return None if value is None else captured(value, recorder.limit, recorder.pipeline.sealing)


class InProcess:
    """An object of this process. Its copy is the object itself, so that a copied agent records to the same place."""

    __slots__ = ()

    def __copy__(self: T) -> T:
        return self

    def __deepcopy__(self: T, memo: object) -> T:
        return self


class Block:
    """The base of all blocks, for `with` and `async with`. It never raises, and never swallows the block's own exception."""

    _recorder: Recorder | None
    """None: nothing is recorded."""
    _scope: Scope | None = None
    """Set from the beginning of the block to its end, if it is recorded."""
    _suspended: Any
    """Set from `suspend` to `finish`."""
    _entered = False

    def _open(self, recorder: Recorder) -> Scope | None:
        raise NotImplementedError

    def _close(self, recorder: Recorder, error: BaseException | None) -> None:
        raise NotImplementedError

    def _failed(self, call: str, error: Exception) -> None:
        if self._recorder is not None:
            self._recorder._failed(call, error)

    def _abandon(self, recorder: Recorder, error: BaseException) -> None:
        """Record the end of a block whose beginning or end an exception of the host's interrupted, unless it is recorded."""

    def __enter__(self: B) -> B:
        recorder = self._recorder
        if recorder is None:
            return self
        if self._entered:
            recorder.invalid_call("block_reused", "a block was entered again; each `with` needs a call of its own")
            return self
        scope = current()
        try:
            self._entered = True
            self._scope = self._open(recorder)
            return self
        except BaseException as error:
            self._scope = None
            switch(scope)
            self._abandon(recorder, error)
            raise

    async def __aenter__(self: B) -> B:
        return self.__enter__()

    # In one line, so that an exception of the host's that comes at the first line of these methods is caught, too.

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try: self._end_block(error)  # noqa: E701  # fmt: skip
        except BaseException as interruption:
            self._end_interrupted(interruption if error is None else error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try: self._end_block(error)  # noqa: E701  # fmt: skip
        except BaseException as interruption:
            self._end_interrupted(interruption if error is None else error)
            raise

    def _end_interrupted(self, error: BaseException) -> None:
        recorder, scope, self._scope = self._recorder, self._scope, None
        if recorder is not None and scope is not None:
            leave(scope)
            self._abandon(recorder, error)

    def _end_block(self, error: BaseException | None) -> None:
        recorder, scope = self._recorder, self._scope
        if recorder is None or scope is None:
            return
        leave(scope)
        try:
            # A generator that is closed early is no failure.
            self._close(recorder, None if issubclass(type(error), GeneratorExit) else error)
        except Exception as failure:
            if error is None or is_hosts(failure):
                raise  # fail_silently=False; but the block's own exception goes first
        self._scope = None

    @property
    def is_open(self) -> bool:
        """True inside the block, if it is recorded."""
        return self._scope is not None

    def suspend(self) -> bool:
        """Leave the block without ending it. False if it is not open."""
        scope = self._scope
        if scope is None:
            return False
        leave(scope)
        # It counts as open to the last, so that an exception of the host's ends it.
        self._suspended, self._scope = scope, None
        return True

    def finish(self, error: BaseException | None = None) -> None:
        """End a block that was suspended, from anywhere. Only the first call counts."""
        self._scope = self.__dict__.pop("_suspended", self._scope)
        self.__exit__(None if error is None else type(error), error, None)


class Run(Block, InProcess, str):
    """A run's id, and the fields that are recorded when its block ends.

    Set `output`, `error` (any value; an exception is recorded with its traceback), `meta_data`, `usage`, `user_id`,
    `conversation_id`, `tags`, `environment` or `release` at any time before. An attribute of another name is not recorded; it is
    counted as an invalid call.
    """

    output: Any = None
    error: Any = None
    meta_data: Any = None
    usage: Any = None
    user_id: str | None = None
    conversation_id: str | None = None
    tags: list[str] | tuple[str, ...] | None = None
    environment: str | None = None
    release: str | None = None
    agent_name: Any

    def __new__(
        cls,
        recorder: Recorder | None,
        run_id: str,
        agent_name: Any,
        input_data: Any = None,
        external_id: Any = None,
        meta_data: Any = None,
        more: Mapping[str, Any] = NO_MORE,
    ) -> Run:
        run = super().__new__(cls, run_id)
        run._recorder = recorder
        run.agent_name = agent_name
        if recorder is not None:
            input_data, meta_data = _taken(recorder, input_data), _taken(recorder, meta_data)
            more = {
                name: _taken(recorder, value)
                if name in RUN_FIELDS and RUN_FIELDS[name].type == PAYLOAD
                else list(value)
                if type(value) is list
                else value
                for name, value in more.items()
            }
        run._start = (input_data, external_id, meta_data, more)
        return run

    _in_yaml = False

    def __init__(self, *_: Any) -> None:
        self._start: tuple[Any, Any, Any, Mapping[str, Any]]
        if "yaml" in sys.modules and not self._in_yaml:
            _represent_in_yaml()

    def __reduce__(self) -> Any:
        return Run, (None, self.id, None)  # in another process it is an id, and records nothing

    @property
    def id(self) -> str:
        """The id as a plain str."""
        return str.__str__(self)

    @safe(lambda *_: None)
    def _repr_html_(self) -> str | None:
        """Show the run in a notebook, as its tree with a link to its page. Waits for delivery for a second at most."""
        if self._recorder is None:
            return None
        from .notebook import run_html

        name = text(self.agent_name, LONGEST_SHOWN)
        return run_html(self.id, name, self._recorder.destinations, self._recorder.pipeline)

    @safe(lambda *_: None)
    def _open(self, recorder: Recorder) -> Scope | None:
        start, self._start = self._start, (None, None, None, NO_MORE)
        run = recorder.begin_run(self.id, self.agent_name, *start)
        return None if run is None else recorder.runs.enter_run(run)

    @safe(lambda *_: None)
    def _close(self, recorder: Recorder, error: BaseException | None) -> None:
        if recorder.runs.has_ended(self.id):
            return  # by end_run(), inside its block
        fields = recorder.end_fields("completed", self.output, error if error is not None else self.error)
        for name, value in list(self.__dict__.items()):
            if name not in _RUN_KNOWN and not name.startswith("_"):
                fields.give(RUN_FIELDS, name, value)
        # The mended fields are reported after the event is queued: the report raises with `fail_silently=False`.
        recorder.put_end(self.id, fields)
        if fields.mended:
            recorder.say_mended(fields)

    def _abandon(self, recorder: Recorder, error: BaseException) -> None:
        recorder.abandon_run(self.id, error)


def _represent_in_yaml() -> None:
    """Let PyYAML write a run as its id. Its safe dumpers look for exact classes."""
    yaml = sys.modules["yaml"]
    try:
        for name in ("SafeDumper", "CSafeDumper", "Dumper", "CDumper"):
            dumper = getattr(yaml, name, None)  # without libyaml there are two
            if dumper is not None:
                dumper.add_representer(Run, lambda dumper, run: dumper.represent_str(run.id))
        Run._in_yaml = True
    except Exception as error:  # another module of this name, or one that is being imported
        if is_hosts(error):
            raise


class Extracted(Block, InProcess):
    """A block, `with` or `async with`, in which the run and step of a request's headers are current.

    `run_id` and `step_id` are None where the headers named none: then the block changes nothing.
    """

    def __init__(self, recorder: Recorder | None, run_id: str | None = None, step_id: str | None = None) -> None:
        self._recorder = recorder if run_id is not None else None
        self.run_id = run_id
        self.step_id = step_id

    def __bool__(self) -> bool:
        return self.run_id is not None

    def __reduce__(self) -> Any:
        return Extracted, (None,)

    def _open(self, recorder: Recorder) -> Scope | None:
        return recorder.runs.enter(self.run_id or "", self.step_id, sort=REMOTE)

    def _close(self, recorder: Recorder, error: BaseException | None) -> None:
        """Record nothing: the run belongs to the sender of the request."""
