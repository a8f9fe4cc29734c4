"""The VoltAgent face: traces, and the agents, tools, memories and retrievers inside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from agentscope.config import SharedOptions
from agentscope.errors import AgentScopeError, ConfigurationError
from agentscope.options import check_names
from agentscope.pipeline.process.awaiting import Ongoing, finished, in_loop
from agentscope.protocols.json_encode import zoned_utc
from agentscope.serialization.snapshot import text
from agentscope.tracker.base import Face
from agentscope.tracker.fields import Fields
from agentscope.tracker.never_raise import safe
from agentscope.tracker.recorder import LONGEST_ID
from agentscope.tracker.tracker import Tracker
from agentscope.types import FlushResult

from .awaitables import ACCEPTED, REFUSED, Delivery, Settled
from .config import given_options, load, voltagent_exporter
from .handles import Given, Handle, Operation, Trace, idle
from .option_dicts import EventDict, TraceDict
from .options import spread, take
from .registry import Entry, Registry, begin_event, begin_trace
from .types import History, TimelineEvent, TraceOptions, VoltAgentConfig

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .client import VoltAgentCoreAPI

H = TypeVar("H", bound=Handle)


class VoltAgentSDK(Face):
    """Records traces of agents. No call waits for the network, and none raises, unless `fail_silently=False`.

    base_url: default `https://api.voltagent.dev`. public_key, secret_key: of a project there; a receiver on this machine needs
    none. auto_flush: False sends events only with `flush()`, `shutdown()`, at exit and in full batches. flush_interval: seconds,
    default 5. timeout: seconds for one request, default 30. retry_delay: seconds, the upper bound of the first wait before a
    retry, default 1; it doubles with each failure. max_retries: failed attempts in a row after which a batch is dropped, as
    `retry_limit`. Its default is None, and not 3 as in the `voltagent` package: an outage of a few seconds would lose data.

    Each of these may also be set in the environment, by `VOLTAGENT_` and its name in capitals, and in a `VoltAgentConfig` or a
    dict. The other options are those of `agentscope.create_tracker`; their variables begin with `AGENTSCOPE_`. `exporters`
    replaces the destination. `ConfigurationError` is raised for a value that cannot work.
    """

    def __init__(
        self,
        given: VoltAgentConfig | Mapping[str, Any] | None = None,
        *,
        base_url: str | None = None,
        public_key: str | None = None,
        secret_key: str | None = None,
        auto_flush: bool | None = None,
        **options: Unpack[SharedOptions],
    ) -> None:
        check_names("VoltAgentSDK", options, SharedOptions.__annotations__)
        own = {"base_url": base_url, "public_key": public_key, "secret_key": secret_key, "auto_flush": auto_flush}
        named = {name: value for name, value in {**own, **options}.items() if value is not None}
        every = {**given_options(given), **named}
        config, self._published = load(every)
        super().__init__(config, every)
        self._registry = Registry(self._recorder, self._pipeline)
        self._kept = self._registry.keeper()
        self._client: VoltAgentCoreAPI | None = None
        self._tracker: Tracker | None = None

    # ---- traces ----------------------------------------------------------------------------------------------------

    @safe(lambda *_: Trace(None, idle()))
    def trace(self, options: TraceOptions | TraceDict | Given | None = None, **more: Any) -> Trace:
        """Begin a trace: `async with sdk.trace(agentId="…") as trace`, or any other use of a handle. It is recorded at once.

        Options, in camelCase or snake_case: `agentId`, `id` (else one is made), `input`, `userId`, `conversationId`, `metadata`,
        `tags`, `version`, `level`, and the times `startTime` and `completionStartTime`. Other names become metadata.

        Inside a run of the AgentScope face or of another process the trace is a step of type agent.
        """
        fields = Fields(self._recorder.limit, {})
        given = spread(options, more, fields)
        if not self._recorder.enabled:
            return Trace(None, idle(text(take(given, "agentId", "agent_id") or "unknown", LONGEST_ID)))
        return begin_trace(self._registry, lambda entry: Trace(self._registry, entry), given, fields)

    @safe(lambda *_: Trace(None, idle()))
    def create_trace(self, options: TraceOptions | TraceDict | Given | None = None, **more: Any) -> Trace:
        """Begin a trace that stays open without its handle, until it is ended by its id or the SDK ends."""
        trace = self.trace(options, **more)
        return self._keep(trace) if self._recorder.enabled else trace

    @safe(lambda *_: Settled(None))
    def get_trace(self, trace_id: str) -> Settled[History | None]:
        """Return id, agent and start of a trace that is open in this process; None for any other."""
        entry = self._registry.find(trace_id)
        if entry is None or not entry.is_trace:
            return Settled(None)
        return Settled(History(id=entry.id, agent_id=entry.name, start_time=zoned_utc(entry.started_at)))

    @safe(lambda *_: REFUSED)
    def update_trace(self, trace_id: str, **changes: Any) -> Settled[bool]:
        """Record changes of a trace, as `Trace.update` does. A final status ends the trace."""
        if not self._recorder.enabled:
            return REFUSED
        return self._update(self._registry.find(trace_id) or self._registry.elsewhere(trace_id), changes)

    @safe(lambda *_: Operation(None, idle()))
    def add_event_to_trace(
        self, trace_id: str, event_data: TimelineEvent | EventDict | Given | str | None = None, **more: Any
    ) -> Operation:
        """Begin a custom event, as `Trace.add_event` does. It stays open without its handle, until it is ended."""
        if not self._recorder.enabled:
            return Operation(None, idle())
        entry = self._registry.find(trace_id) or self._registry.elsewhere(trace_id)
        fields = Fields(self._recorder.limit, {})
        given, trace = spread(event_data, more, fields), Trace(None, entry)
        handle = begin_event(
            self._registry, lambda event: Operation(self._registry, event, trace), entry, given, fields
        )
        return handle if handle._entry.ended else self._keep(handle)

    @safe(lambda *_: REFUSED)
    def update_event(self, event_id: str, **changes: Any) -> Settled[bool]:
        """Record changes of an open event, as `update` of its handle does. A final status ends the event."""
        entry = self._registry.find(event_id)
        if entry is None and self._recorder.enabled:
            self._recorder.invalid_call("unknown_event", "update_event() knows no event that goes on under this id")
        return REFUSED if entry is None else self._update(entry, changes)

    # ---- delivery --------------------------------------------------------------------------------------------------

    @safe(lambda self, *_: self._flushed(30.0))
    def flush(self, timeout: float = 30.0) -> Delivery:
        """Deliver everything accepted so far, within `timeout` seconds.

        Outside of an event loop this waits and returns a `FlushResult`: true only if all events were acknowledged and none was
        dropped since the last flush. Inside of one it returns at once; await the result, which is false until delivery is over.
        With `fail_silently=False` a failure raises, as it does from a tracker.
        """
        return self._flushed(self._seconds(timeout, 30.0))

    @safe(lambda self, *_: self._shut_down(10.0))
    def shutdown(self, timeout: float = 10.0) -> Delivery:
        """Close open traces and events as unfinished, deliver all events and end the worker. Waits and raises as `flush` does.

        It is called at exit. Nothing can be recorded afterwards.
        """
        return self._shut_down(self._seconds(timeout, 10.0))

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self.shutdown().result()
        except AgentScopeError:
            if error is None:
                raise  # the block's own exception goes first

    # ---- beside ----------------------------------------------------------------------------------------------------

    @property
    def tracker(self) -> Tracker:
        """The AgentScope face over the same pipeline. Its steps and those of integrations become part of the same traces."""
        if self._tracker is None:
            self._tracker = Tracker.over(self)
        return self._tracker

    @property
    def client(self) -> VoltAgentCoreAPI:
        """The direct client of the API: its calls wait for the answer and raise."""
        if self._client is None:
            if voltagent_exporter(self._config) is None:
                raise ConfigurationError("there is no client: this SDK does not send to a VoltAgent backend")
            from .client import VoltAgentCoreAPI

            self._client = VoltAgentCoreAPI(self._published)
        return self._client

    @property
    def config(self) -> VoltAgentConfig:
        """The options under their published names."""
        return self._published

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _flushed(self, timeout: float) -> Delivery:
        pipeline = self._pipeline
        return self._delivery(pipeline.flushing(timeout) if in_loop() else pipeline.flush(timeout))

    def _shut_down(self, timeout: float) -> Delivery:
        pipeline = self._pipeline
        return self._delivery(pipeline.shutting_down(timeout) if in_loop() else pipeline.shutdown(timeout))

    def _delivery(self, result: FlushResult | Ongoing[FlushResult]) -> Delivery:
        ongoing = finished(self._checked(result)) if isinstance(result, FlushResult) else result
        return Delivery(ongoing, self._checked, self.stats)

    def _keep(self, handle: H) -> H:
        """Keep a handle that the caller need not keep."""
        try:
            self._kept.keep(handle.id, handle)
            return handle
        except BaseException:
            self._kept.pop(handle.id, None)
            raise

    def _update(self, entry: Entry, changes: dict[str, Any]) -> Settled[bool]:
        given = spread(None, changes, Fields(0, {}))
        return ACCEPTED if self._registry.update(entry, given, ends=True) else REFUSED
