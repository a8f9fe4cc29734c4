"""The VoltAgent face: traces, and what happens in them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentscope.config import OnDrop, Redact
from agentscope.errors import AgentScopeError, ConfigurationError
from agentscope.exporters.voltagent import VoltAgentExporter
from agentscope.protocols.json_encode import zoned_utc
from agentscope.serialization.snapshot import text
from agentscope.tracker.base import Face
from agentscope.tracker.fields import Fields
from agentscope.tracker.never_raise import safe
from agentscope.tracker.recorder import LONGEST_ID
from agentscope.tracker.tracker import Tracker

from .awaitables import ACCEPTED, REFUSED, Delivery, Settled, deliver
from .builders import begin_event, begin_trace
from .config import load
from .handles import Given, Operation, Trace, idle
from .options import spread, take
from .registry import Entry, Registry
from .types import History, TimelineEvent, TraceOptions, VoltAgentConfig

if TYPE_CHECKING:
    from agentscope.exporters.base import Exporter

    from .client import VoltAgentCoreAPI


class VoltAgentSDK(Face):
    """Records traces of agents. No call waits for the network, and none raises, unless `fail_silently=False`.

    base_url: default `https://api.voltagent.dev`. public_key, secret_key: of a project there; `agentscope serve` without a key
    takes any. auto_flush: False sends nothing by itself, but by `flush()`, `shutdown()`, at exit, and in full batches.
    flush_interval: seconds (5). timeout: seconds for one request as a whole (30). retry_delay: seconds before the first of
    further attempts, about (1); it doubles with each.

    max_retries: after so many failed attempts in a row what was to be sent is dropped, and counted as `retry_limit`. The
    default is not the document's 3 but None: an outage of a few seconds would lose data, and there is room for a long one.

    Each of these may also come from the environment: `VOLTAGENT_` and its name in capitals. They may be given as a
    `VoltAgentConfig` or a dict, too. The other options are a tracker's, and `agentscope.Config` has their meaning; their
    variables begin with `AGENTSCOPE_`. `exporters` replaces the destination by any others. `ConfigurationError` is raised for
    a value that cannot work.
    """

    def __init__(
        self,
        given: VoltAgentConfig | Mapping[str, Any] | None = None,
        *,
        base_url: str | None = None,
        public_key: str | None = None,
        secret_key: str | None = None,
        auto_flush: bool | None = None,
        flush_interval: float | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        retry_delay: float | None = None,
        headers: Mapping[str, str] | None = None,
        fail_silently: bool | None = None,
        enabled: bool | None = None,
        sample_rate: float | None = None,
        batch_size: int | None = None,
        max_queue_bytes: int | None = None,
        max_batch_bytes: int | None = None,
        max_payload_bytes: int | None = None,
        max_connections: int | None = None,
        spool_dir: str | os.PathLike[str] | None = None,
        spool_max_bytes: int | None = None,
        flush_on_signal: bool | None = None,
        shutdown_timeout: float | None = None,
        service_name: str | None = None,
        exporters: Sequence[Exporter] | None = None,
        redact: Redact | None = None,
        on_drop: OnDrop | None = None,
    ) -> None:
        options = {name: value for name, value in locals().items() if name not in ("self", "given", "__class__")}
        config, self._published = load(options, given)
        super().__init__(config)
        self._registry = Registry(self._recorder, self._pipeline)
        self._kept = self._registry.keeper()
        self._client: VoltAgentCoreAPI | None = None
        self._tracker: Tracker | None = None

    # ---- traces ----------------------------------------------------------------------------------------------------

    @safe(lambda *_: Trace(None, idle()))
    def trace(self, options: TraceOptions | Given | None = None, **more: Any) -> Trace:
        """A trace begins, and is recorded at once: `async with sdk.trace(agentId="…") as trace`, or any way a handle works.

        Options, in camelCase or snake_case: `agentId`, `id` (else one is made), `input`, `userId`, `conversationId`, `metadata`,
        `tags`, `version`, `level`, and the times `startTime` and `completionStartTime`. Others become metadata.

        Inside a run of the AgentScope face, or of another process, it is a step of type agent there.
        """
        fields = Fields(self._recorder.limit, {})
        given = spread(options, more, fields)
        if not self._recorder.enabled:
            return Trace(None, idle(text(take(given, "agentId", "agent_id") or "unknown", LONGEST_ID)))
        return Trace(self._registry, begin_trace(self._registry, given, fields))

    @safe(lambda *_: Trace(None, idle()))
    def create_trace(self, options: TraceOptions | Given | None = None, **more: Any) -> Trace:
        """`trace`, but it goes on until it is ended, or the SDK is, whatever becomes of the handle: its id is enough."""
        trace = self.trace(options, **more)
        if self._recorder.enabled:
            self._kept.keep(trace.id, trace)
        return trace

    @safe(lambda *_: Settled(None))
    def get_trace(self, trace_id: str) -> Settled[History | None]:
        """What is known here of a trace that goes on: id, agent and start; None for any other."""
        entry = self._registry.find(trace_id)
        if entry is None or not entry.is_trace:
            return Settled(None)
        return Settled(History(id=entry.id, agent_id=entry.name, start_time=zoned_utc(entry.started_at)))

    @safe(lambda *_: REFUSED)
    def update_trace(self, trace_id: str, **changes: Any) -> Settled[bool]:
        """Record what has changed in a trace: as `Trace.update`, but a final status ends it."""
        if not self._recorder.enabled:
            return REFUSED
        return self._update(self._registry.find(trace_id) or self._registry.elsewhere(trace_id), changes)

    @safe(lambda *_: Operation(None, idle()))
    def add_event_to_trace(
        self, trace_id: str, event_data: TimelineEvent | Given | str | None = None, **more: Any
    ) -> Operation:
        """An event of your own: as `Trace.add_event`. It goes on until it is ended, whatever becomes of the handle."""
        if not self._recorder.enabled:
            return Operation(None, idle())
        entry = self._registry.find(trace_id) or self._registry.elsewhere(trace_id)
        fields = Fields(self._recorder.limit, {})
        event = begin_event(self._registry, entry, spread(event_data, more, fields), fields)
        handle = Operation(self._registry, event, Trace(None, entry))
        if not event.ended:
            self._kept.keep(event.id, handle)
        return handle

    @safe(lambda *_: REFUSED)
    def update_event(self, event_id: str, **changes: Any) -> Settled[bool]:
        """Record what has changed in something that goes on: as `update` of its handle, but a final status ends it."""
        entry = self._registry.find(event_id)
        if entry is None and self._recorder.enabled:
            self._recorder.invalid_call("unknown_event", "update_event() knows no event that goes on under this id")
        return REFUSED if entry is None else self._update(entry, changes)

    # ---- delivery --------------------------------------------------------------------------------------------------

    @safe(lambda self, *_: deliver(lambda: self._pipeline.flush(30.0), self.stats))
    def flush(self, timeout: float = 30.0) -> Delivery:
        """Deliver everything accepted so far, within `timeout` seconds.

        Where no event loop runs, this waits, and gives a `FlushResult`: true only if all was acknowledged and nothing was
        dropped since the last flush. Inside one it begins at once and waits for nothing: await what it gives, else it is not
        true before it is over. With `fail_silently=False` anything else raises, as from a tracker.
        """
        return deliver(lambda: Face.flush(self, timeout), self.stats)

    @safe(lambda self, *_: deliver(lambda: self._pipeline.shutdown(10.0), self.stats))
    def shutdown(self, timeout: float = 10.0) -> Delivery:
        """Close what was never ended as unfinished, deliver what is left, and end the worker; as `flush` in all else.

        It happens at exit by itself. Nothing can be recorded afterwards.
        """
        return deliver(lambda: Face.shutdown(self, timeout), self.stats)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self.shutdown().result()
        except AgentScopeError:
            if error is None:
                raise  # the block's own exception goes first

    # ---- beside ----------------------------------------------------------------------------------------------------

    @property
    def tracker(self) -> Tracker:
        """The AgentScope face over the same pipeline: its steps, and those of integrations, hang in the same traces."""
        if self._tracker is None:
            self._tracker = Tracker.over(self)
        return self._tracker

    @property
    def client(self) -> VoltAgentCoreAPI:
        """The direct client of the API, which waits for each answer, and raises."""
        if self._client is None:
            if not any(isinstance(exporter, VoltAgentExporter) for exporter in self._config.exporters):
                raise ConfigurationError("there is no client: this SDK does not send to a VoltAgent backend")
            from .client import VoltAgentCoreAPI

            self._client = VoltAgentCoreAPI(self._published)
        return self._client

    @property
    def config(self) -> VoltAgentConfig:
        """The options under their published names."""
        return self._published

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _update(self, entry: Entry, changes: dict[str, Any]) -> Settled[bool]:
        given = spread(None, changes, Fields(0, {}))
        return ACCEPTED if self._registry.update(entry, given, ends=True) else REFUSED
