"""Handles of traces, agents, tools, memories and retrievers. Their calls only enqueue.

Each works in four ways: `async with trace.add_agent({…}) as agent`, `with …`, `agent = await trace.add_agent({…})`, and plain
`agent = trace.add_agent({…})`. The call begins it. A block makes it current, so that steps recorded inside are its children,
and ends it as completed, or as failed with type, message and traceback if an exception leaves the block, which is raised on. A
handle that is not ended is closed as unfinished when it is collected, at shutdown and at exit.

Only the first end counts: a later `success`, `error` or `update` is not recorded, but steps added below are. This is logged
once, and raised only with `fail_silently=False`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

from agentscope.protocols.ids import new_id
from agentscope.serialization.text import text
from agentscope.tracker.context import HANDLE, Scope
from agentscope.tracker.fields import LONGEST_SHOWN, Fields, outcome
from agentscope.tracker.handles import Block
from agentscope.tracker.never_raise import safe
from agentscope.tracker.recorder import Recorder

from .awaitables import ACCEPTED, REFUSED, Ready, Settled
from .option_dicts import AgentDict, EventDict, StepDict
from .options import FINAL, spread, status_of
from .registry import Entry, Registry, begin_event, begin_step
from .types import AgentOptions, MemoryOptions, RetrieverOptions, TimelineEvent, ToolOptions

Given = Mapping[str, Any]
H = TypeVar("H", bound="Handle")
S = TypeVar("S", bound="Operation")
M = TypeVar("M", bound=Callable[..., Any])

_ATTRIBUTES = frozenset({"id", "trace_id", "agent_id"})
"""Public attributes of handles."""

_refused = safe(lambda *_: REFUSED)


class Handle(Block, Ready[Any]):
    """A handle of an open run or step. `await` returns the handle itself."""

    def __init__(self, registry: Registry | None, entry: Entry, above: Handle | None = None) -> None:
        self._recorder: Recorder | None = None if registry is None else registry.recorder
        self._registry = registry
        """None for a handle that records nothing."""
        self._entry = entry
        self._above = above  # a child keeps its parent's handle from being collected, which would end it
        self.id: str = entry.id
        self.trace_id: str = entry.id if above is None else above.trace_id
        """The id of its trace."""
        if registry is not None:
            registry.watch(self, entry)

    def _result(self) -> Any:
        return self

    def __await__(self: H) -> Generator[Any, Any, H]:
        return self
        yield

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._entry.id}>"

    def __reduce__(self) -> Any:
        # In another process it is an id, and records nothing.
        return _idle_handle, (type(self), self._entry.id, self._entry.parent_id, self.trace_id)

    def _open(self, recorder: Recorder) -> Scope | None:
        entry = self._entry
        return recorder.runs.enter(entry.run_id, entry.step_id, own_id=self.trace_id, sort=HANDLE)

    @safe(lambda *_: None)
    def _close(self, recorder: Recorder, error: BaseException | None) -> None:
        registry, entry = self._registry, self._entry
        if registry is not None and not registry.is_over(entry):
            registry.end(entry, outcome(error) if error is not None else entry.status or "completed", error=error)
            self._check_attributes(registry)

    def _abandon(self, recorder: Recorder, error: BaseException) -> None:
        if self._registry is not None:
            self._registry.abandon(self._entry, error)

    @_refused
    def update(self, **changes: Any) -> Settled[bool]:
        """Record changes: `status`, `input`, `output`, `metadata`, `tags`, `level`, `version`, `usage`,
        `status_message`, in snake_case or camelCase; other names become metadata.

        A final status such as "error" does not end it: it is the status of the end if that names none.
        """
        registry = self._registry
        if registry is None or not registry.update(self._entry, spread(None, changes, Fields(0, {}))):
            return REFUSED
        return ACCEPTED

    def _end(self, status: str, **results: Any) -> Settled[bool]:
        registry = self._registry
        if registry is None or not registry.end(self._entry, status, **results):
            return REFUSED
        self._check_attributes(registry)
        return ACCEPTED

    def _check_attributes(self, registry: Registry) -> None:
        """Report attributes that the caller has set on the handle, which are not recorded."""
        for name in list(self.__dict__):
            if name not in _ATTRIBUTES and not name.startswith("_"):
                sentence = (
                    f"{text(name, LONGEST_SHOWN)!r} was set on a handle, which records nothing: pass it to update()"
                )
                registry.recorder.invalid_call("unknown_field", sentence)


class Operation(Handle):
    """A handle of a custom event, and base of agents, tools, memories and retrievers."""

    @property
    def parent_id(self) -> str | None:
        """The id of its parent step; None directly below the run."""
        return self._entry.parent_id

    @_refused
    def success(self, output: Any = None, metadata: Any = None, usage: Any = None) -> Settled[bool]:
        """End it as completed. `output` may be any value; keys of `metadata` become camelCase; `usage` is as for an agent."""
        return self._end("completed", output=output, metadata=metadata, usage=usage)

    @_refused
    def error(self, status_message: Any = None, metadata: Any = None) -> Settled[bool]:
        """End it as failed. `status_message` is an exception, recorded with its traceback, a str, a dict, or another value."""
        return self._end("failed", error=status_message, metadata=metadata)


class Tool(Operation):
    """A call of an API, a database or a function."""


class Memory(Operation):
    """A read or write of a memory."""


class Retriever(Operation):
    """A search for information."""


def _returns(kind: str) -> Callable[[M], M]:
    """Guard a call: after an error of this package it returns a handle of this class that records nothing."""
    return safe(lambda parent, *_: globals()[kind](None, idle(), parent))


class _Parent(Handle):
    """Base of handles that children can be added to."""

    @_returns("Agent")
    def add_agent(self, options: AgentOptions | AgentDict | Given | str | None = None, **more: Any) -> Agent:
        """Begin an agent. Options: `name`, `input`, `instructions`, `metadata`; others become metadata."""
        return self._add(Agent, "agent", options, more)

    @_returns("Tool")
    def add_tool(self, options: ToolOptions | StepDict | Given | str | None = None, **more: Any) -> Tool:
        """Begin a tool call. Options: `name`, `input`, `metadata`; others become metadata."""
        return self._add(Tool, "tool_call", options, more)

    @_returns("Memory")
    def add_memory(self, options: MemoryOptions | StepDict | Given | str | None = None, **more: Any) -> Memory:
        """Begin a memory access. Options: `name`, `input`, `metadata`; others become metadata."""
        return self._add(Memory, "memory", options, more)

    @_returns("Retriever")
    def add_retriever(self, options: RetrieverOptions | StepDict | Given | str | None = None, **more: Any) -> Retriever:
        """Begin a search. Options: `name`, `input`, `metadata`; others become metadata."""
        return self._add(Retriever, "retrieval", options, more)

    @_returns("Operation")
    def add_event(self, event_data: TimelineEvent | EventDict | Given | str | None = None, **more: Any) -> Operation:
        """Begin a custom event. Options: `name`, `type`, `input`, `output`, `status`, `level`, `metadata` and others.

        A final status (completed, error, cancelled) ends it at once; otherwise the returned handle does.
        """
        registry = self._registry
        if registry is None:
            return Operation(None, idle(), self)
        self._say_late(registry)
        fields = Fields(registry.recorder.limit, {})
        given = spread(event_data, more, fields)
        return begin_event(registry, lambda event: Operation(registry, event, self), self._entry, given, fields)

    def _add(self, kind: type[S], step_type: str, options: Any, more: dict[str, Any]) -> S:
        registry, entry = self._registry, self._entry
        if registry is None:
            return kind(None, idle(), self)
        if entry.ended:
            self._say_late(registry)
        fields = Fields(registry.recorder.limit, {})
        given = spread(options, more, fields)
        return begin_step(registry, lambda step: kind(registry, step, self), entry, step_type, given, fields)

    def _say_late(self, registry: Registry) -> None:
        if self._entry.ended:
            sentence = "a step was added to a trace or an agent that has ended; it is recorded all the same"
            registry.recorder.invalid_call("added_after_end", sentence)


class Agent(_Parent, Operation):
    """An agent, to which agents, tools, memories and retrievers can be added."""

    @_refused
    def success(  # type: ignore[override]  # in the document's order
        self, output: Any = None, usage: Any = None, metadata: Any = None
    ) -> Settled[bool]:
        """End it as completed. `output` may be any value; keys of `metadata` become camelCase.

        usage: a dict such as {"prompt_tokens": 150, "completion_tokens": 85, "total_tokens": 235}, a `TokenUsage`, or any object
        with such attributes.
        """
        return self._end("completed", output=output, usage=usage, metadata=metadata)


class Trace(_Parent):
    """The handle of a trace: one execution, such as a conversation turn or a task."""

    def __init__(self, registry: Registry | None, entry: Entry) -> None:
        super().__init__(registry, entry)
        self.agent_id: str = entry.name

    @_refused
    def end(
        self, output: Any = None, status: Any = None, usage: Any = None, metadata: Any = None, error: Any = None
    ) -> Settled[bool]:
        """End the trace, unless a block does. status: "completed" (the default), "error" or "cancelled".

        `error` describes a failure: an exception, a str, a dict, or another value. `usage` is as for an agent.
        """
        fields = Fields(0, {})
        known = status_of(status, fields)
        if known not in FINAL:
            known = "completed" if error is None else "failed"
        result = self._end(known, output=output, usage=usage, metadata=metadata, error=error)
        if self._recorder is not None:
            self._recorder.say_mended(fields)
        return result


def idle(name: str = "unknown") -> Entry:
    """Return the entry of a handle that records nothing."""
    return Entry(new_id(), None, None, name, "", 0)


def _idle_handle(kind: type[Handle], own_id: str, parent_id: str | None, trace_id: str) -> Handle:
    handle = kind(None, Entry(own_id, None, parent_id, "unknown", "", 0))
    handle.trace_id = trace_id
    return handle


TraceContext, AgentContext, ToolContext = Trace, Agent, Tool
MemoryContext, RetrieverContext, EventContext = Memory, Retriever, Operation
"""The published names."""
