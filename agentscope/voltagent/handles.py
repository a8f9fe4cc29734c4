"""Traces, agents, tools, memories and retrievers: what is recorded of one, by calls that only enqueue.

Each works in four ways, by this one implementation, since nothing waits: `async with trace.add_agent({…}) as agent`, `with …`,
`agent = await trace.add_agent({…})`, and plain `agent = trace.add_agent({…})`. It begins with the call; a block makes it current,
so that what is recorded inside hangs below it, and ends it: as completed, unless it was ended before, or as an error with type,
message and traceback if an exception leaves the block, which goes on unchanged. A handle that nobody ends is closed as
unfinished when it is collected, at shutdown and at exit.

How it ended first stands: another `success` or `error` is left out, as is an update after the end; what is added below it is
recorded all the same. That is said once in the log, and nothing is raised, unless `fail_silently=False`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

from agentscope.protocols.ids import new_id
from agentscope.serialization.text import text
from agentscope.tracker.context import HANDLE, Scope
from agentscope.tracker.fields import LONGEST_SHOWN, Fields, outcome
from agentscope.tracker.handles import InProcess, _Block
from agentscope.tracker.never_raise import safe
from agentscope.tracker.recorder import Recorder

from .awaitables import ACCEPTED, REFUSED, Ready, Settled
from .builders import begin_event, begin_step
from .options import FINAL, spread, status_of
from .registry import Book, Part
from .types import AgentOptions, MemoryOptions, RetrieverOptions, TimelineEvent, ToolOptions

Given = Mapping[str, Any]
H = TypeVar("H", bound="Handle")
S = TypeVar("S", bound="Operation")

_ATTRIBUTES = frozenset({"id", "trace_id", "agent_id"})
"""The public attributes that handles have."""

_refused = safe(lambda *_: REFUSED)


class Handle(_Block, InProcess, Ready[Any]):
    """A run or a step that goes on. Awaiting it gives itself."""

    def __init__(self, book: Book | None, part: Part, above: Handle | None = None) -> None:
        self._recorder: Recorder | None = None if book is None else book.recorder
        self._book = book
        """None: nothing is recorded."""
        self._part = part
        self._above = above  # as long as anything below it goes on, so does it
        self.id: str = part.id
        self.trace_id: str = part.id if above is None else above.trace_id
        """The id of the trace that it belongs to."""

    def _result(self) -> Any:
        return self

    def __await__(self: H) -> Generator[Any, Any, H]:
        return self
        yield

    def __enter__(self: H) -> H:
        self._begin()
        return self

    async def __aenter__(self: H) -> H:
        self._begin()
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._part.id}>"

    def __del__(self) -> None:
        try:
            if self._book is not None:
                self._book.close(self._part)
        except BaseException:  # in the middle of anything, or at the very end of the process
            pass

    def _open(self, recorder: Recorder) -> Scope | None:
        part = self._part
        return recorder.runs.enter(part.run_id, part.step_id, opened_as=self.trace_id, sort=HANDLE)

    @safe(lambda *_: None)
    def _close(self, recorder: Recorder, error: BaseException | None) -> None:
        book, part = self._book, self._part
        if book is not None and not book.is_over(part):
            book.end(part, outcome(error) if error is not None else part.status or "completed", error=error)
            self._check_attributes(book)

    @_refused
    def update(self, **changes: Any) -> Settled[bool]:
        """Record what has changed: `status`, `input`, `output`, `metadata`, `tags`, `level`, `version`, `usage`,
        `status_message`, in snake_case or camelCase; other names become metadata.

        It goes on all the same: a status such as "error" is the one it ends with if it completes by itself.
        """
        return _told(self._book is not None and self._book.update(self._part, spread(None, changes, _nothing())))

    def _end(self, status: str, **told: Any) -> Settled[bool]:
        book = self._book
        if book is None or not book.end(self._part, status, **told):
            return REFUSED
        self._check_attributes(book)
        return ACCEPTED

    def _check_attributes(self, book: Book) -> None:
        """Count an attribute that the caller set on the handle: nothing of it is recorded."""
        for name in list(self.__dict__):
            if name not in _ATTRIBUTES and not name.startswith("_"):
                told = f"{text(name, LONGEST_SHOWN)!r} was set on a handle, which records nothing: pass it to update()"
                book.recorder.invalid_call("unknown_field", told)


class Operation(Handle):
    """What an event of the caller's own making gives, and base of agents, tools, memories and retrievers."""

    @property
    def parent_id(self) -> str | None:
        """The id of the step that it is part of; None directly in the run."""
        return self._part.parent_id

    @_refused
    def success(self, output: Any = None, metadata: Any = None, usage: Any = None) -> Settled[bool]:
        """It went well. `output` may be any value; keys of `metadata` are camelCased; `usage` is as for an agent."""
        return self._end("completed", output=output, metadata=metadata, usage=usage)

    @_refused
    def error(self, status_message: Any = None, metadata: Any = None) -> Settled[bool]:
        """It failed. `status_message` is an exception, recorded with its traceback, a str, a dict, or any other value."""
        return self._end("failed", error=status_message, metadata=metadata)


class Tool(Operation):
    """A call of something outside: an API, a database, a function."""


class Memory(Operation):
    """Something stored or fetched."""


class Retriever(Operation):
    """A search for information."""


# Pyright cannot infer the types of these in the decorators of a base class of `Agent`: they are declared.
_UNRECORDED: dict[str, Callable[..., Any]] = {
    "agent": lambda parent, *_: Agent(None, idle(), parent),
    "tool": lambda parent, *_: Tool(None, idle(), parent),
    "memory": lambda parent, *_: Memory(None, idle(), parent),
    "retriever": lambda parent, *_: Retriever(None, idle(), parent),
    "operation": lambda parent, *_: Operation(None, idle(), parent),
}
"""The handles that calls give after an error of this package: nothing is recorded by them."""


class _Around(Handle):
    """What others can be added to."""

    @safe(_UNRECORDED["agent"])
    def add_agent(self, options: AgentOptions | Given | str | None = None, **more: Any) -> Agent:
        """An agent begins: `name`, and perhaps `input`, `instructions` and `metadata`. Other options become metadata."""
        return self._add(Agent, "agent", options, more)

    @safe(_UNRECORDED["tool"])
    def add_tool(self, options: ToolOptions | Given | str | None = None, **more: Any) -> Tool:
        """A tool is called: `name`, and perhaps `input` and `metadata`. Other options become metadata."""
        return self._add(Tool, "tool_call", options, more)

    @safe(_UNRECORDED["memory"])
    def add_memory(self, options: MemoryOptions | Given | str | None = None, **more: Any) -> Memory:
        """A memory is used: `name`, and perhaps `input` and `metadata`. Other options become metadata."""
        return self._add(Memory, "memory", options, more)

    @safe(_UNRECORDED["retriever"])
    def add_retriever(self, options: RetrieverOptions | Given | str | None = None, **more: Any) -> Retriever:
        """A search begins: `name`, and perhaps `input` and `metadata`. Other options become metadata."""
        return self._add(Retriever, "retrieval", options, more)

    @safe(_UNRECORDED["operation"])
    def add_event(self, event_data: TimelineEvent | Given | str | None = None, **more: Any) -> Operation:
        """An event of your own: `name` and `type`, and perhaps `input`, `output`, `status`, `level`, `metadata` and the like.

        With a final status (completed, error, cancelled) it is over at once; else end what this gives.
        """
        book = self._book
        if book is None:
            return Operation(None, idle(), self)
        self._say_late(book)
        fields = Fields(book.recorder.limit, {})
        return Operation(book, begin_event(book, self._part, spread(event_data, more, fields), fields), self)

    def _add(self, kind: type[S], step_type: str, options: Any, more: dict[str, Any]) -> S:
        book, part = self._book, self._part
        if book is None:
            return kind(None, idle(), self)
        if part.ended:
            self._say_late(book)
        fields = Fields(book.recorder.limit, {})
        return kind(book, begin_step(book, part, step_type, spread(options, more, fields), fields), self)

    def _say_late(self, book: Book) -> None:
        if self._part.ended:
            sentence = "something was added to a trace or an agent that has ended; it is recorded all the same"
            book.recorder.invalid_call("added_after_end", sentence)


class Agent(_Around, Operation):
    """An agent at work. Others, tools, memories and retrievers are added to it."""

    @_refused
    def success(  # type: ignore[override]  # in the document's order
        self, output: Any = None, usage: Any = None, metadata: Any = None
    ) -> Settled[bool]:
        """It went well. `output` may be any value; keys of `metadata` are camelCased.

        usage: a dict such as {"prompt_tokens": 150, "completion_tokens": 85, "total_tokens": 235}, a `TokenUsage`, or any object
        with such attributes.
        """
        return self._end("completed", output=output, usage=usage, metadata=metadata)


class Trace(_Around):
    """One execution, such as a conversation or a task: what all others belong to."""

    def __init__(self, book: Book | None, part: Part) -> None:
        super().__init__(book, part)
        self.agent_id: str = part.name

    @_refused
    def end(
        self, output: Any = None, status: Any = None, usage: Any = None, metadata: Any = None, error: Any = None
    ) -> Settled[bool]:
        """End the trace; a block does it by itself. status: "completed" (the default), "error" or "cancelled".

        `error` tells of a failure: an exception, a str, a dict, or any other value. `usage` is as for an agent.
        """
        mended = _nothing()
        known = status_of(status, mended)
        if known not in FINAL:
            known = "completed" if error is None else "failed"
        told = self._end(known, output=output, usage=usage, metadata=metadata, error=error)
        if self._recorder is not None:
            self._recorder.say_mended(mended)
        return told


def idle(name: str = "unknown") -> Part:
    """The part of a handle that records nothing."""
    return Part(new_id(), None, None, name, "", 0)


TraceContext, AgentContext, ToolContext = Trace, Agent, Tool
MemoryContext, RetrieverContext, EventContext = Memory, Retriever, Operation
"""The published names."""


def _told(accepted: bool) -> Settled[bool]:
    return ACCEPTED if accepted else REFUSED


def _nothing() -> Fields:
    return Fields(0, {})
