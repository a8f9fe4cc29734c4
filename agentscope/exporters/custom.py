"""Exporters that are objects with `export(events, timeout)`: the interface, the records they get, and their sender."""

from __future__ import annotations

import inspect
import json
from _thread import get_ident
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from agentscope.events import ReadyEvent, Session, in_full
from agentscope.protocols.base import BUSY, Batch, Dropped, Outcome
from agentscope.protocols.base import Exporter as Sender
from agentscope.protocols.drop_reasons import ENCODE_ERROR, REJECTED
from agentscope.protocols.json_encode import UNENCODABLE, plain, zoned_utc

from .base import Destination, Host, Settings


class EventRecord(NamedTuple):
    """One event, as an exporter of your own gets it: a patch to one run or step. `_asdict()` gives plain JSON values."""

    id: str
    """The idempotency key, a UUID: a record that is exported again has the same id."""
    type: str
    """`run.start`, `run.update`, `run.end`, `step.start`, `step.update`, `step.end`, or `step` for a whole step."""
    time: str
    """UTC, RFC 3339 with microseconds: `2026-01-31T12:00:00.123456Z`."""
    session: str
    """The id of the process that recorded it. Events are in order by (time, session, seq)."""
    seq: int
    run_id: str
    step_id: str | None
    """None for an event of the run itself."""
    parent_id: str | None
    fields: dict[str, Any]
    """The fields that this event sets. Payloads are JSON values, times are like `time`. The dict belongs to the exporter."""


class ExportResult(NamedTuple):
    """The result of an export of which not all events were delivered. Events in neither collection are exported again."""

    delivered: Collection[str] = ()
    """Ids of events that were delivered."""
    rejected: Collection[str] = ()
    """Ids of events that will never be delivered. They are dropped and counted as `rejected`."""
    problem: str | None = None
    """The reason why events are left, in one sentence without payloads or keys: it is logged, and shown by `stats()`."""
    retry_after: float | None = None
    """Seconds before the events that are left are exported again; without it the time is random and grows with each failure."""


@runtime_checkable
class EventExporter(Protocol):
    """An object that delivers events, for `exporters=[…]`.

    An object that also has `close()` has it called once, in the same thread, after the last export.
    """

    def export(self, events: Sequence[EventRecord], timeout: float, /) -> bool | ExportResult | None:
        """Deliver these events within `timeout` seconds. Called by one background thread of the tracker.

        Return None or True if all were delivered, False if none was, or an `ExportResult`. Events that were not delivered are
        exported again with the same ids, after a wait that grows with each failure; an exception and any other result mean
        that none was delivered. Events that a tracker records inside this call are refused.
        """


@runtime_checkable
class Closable(Protocol):
    """An exporter with a `close` method."""

    def close(self) -> None:
        """Release resources. Not called where an export never returned, or nothing was ever recorded."""


class LocalExporter:
    """Base of exporters into this process itself: their events are not spooled, as another process could not deliver them."""


@dataclass(frozen=True, kw_only=True, repr=False)
class CustomExporter(Destination):
    """An exporter object with options of its own: `CustomExporter(target=mine, batch_size=50, timeout=2.0)`."""

    target: EventExporter

    @property
    def url(self) -> str:
        return f"{type(self.target).__module__}.{type(self.target).__qualname__}"

    @property
    def identity(self) -> str:
        # Each object has runs of its own, even if another object of its class is in use.
        return f"{type(self.target).__qualname__} at {id(self.target):#x}"

    @property
    def spooled(self) -> bool:
        return not isinstance(self.target, LocalExporter)

    def sender(self, settings: Settings, host: Host) -> Callable[[], Sender]:
        return lambda: ObjectSender(self.target, host)


def why_not_an_exporter(value: object) -> str | None:
    """Return the reason why an object cannot be an exporter, as the end of a sentence; None if it can."""
    if isinstance(value, type):
        return f" {value.__name__}: pass an instance"
    export = getattr(value, "export", None)
    if not callable(export):
        return ""
    if inspect.iscoroutinefunction(export) or inspect.isasyncgenfunction(export) or inspect.isgeneratorfunction(export):
        return ", whose export is a coroutine or a generator: it must be a plain function"
    try:
        inspect.signature(export).bind((), 1.0)
    except TypeError:
        return ", whose export does not take (events, timeout)"
    except ValueError:
        return None  # a builtin without a signature
    return None


def record_of(event: ReadyEvent, session: Session) -> EventRecord:
    """Convert an event. Raises one of `UNENCODABLE` for a payload that is not JSON."""
    event = in_full(event)
    fields = {
        name: json.loads(value) if type(value) is bytes else plain(name, value) for name, value in event.fields.items()
    }
    return EventRecord(
        id=session.event_id(event.seq),
        type=event.type,
        time=zoned_utc(event.time_ns),
        session=session.id,
        seq=event.seq,
        run_id=event.run_id,
        step_id=event.step_id,
        parent_id=event.parent_id,
        fields=fields,
    )


class ObjectSender:
    """Delivers batches to an exporter object. Its results and its exceptions become outcomes."""

    def __init__(self, target: EventExporter, host: Host) -> None:
        self._target = target
        self._callback = host.callback
        self._name = type(target).__name__
        self._thread = 0

    @property
    def protocol(self) -> str | None:
        return self._name

    def warm_up(self) -> None:
        self._thread = get_ident()

    def close(self) -> None:
        # In any other thread it might run beside an export that hangs, and hold up the end of the process.
        if self._thread == get_ident() and isinstance(self._target, Closable):
            self._thread = 0
            try:
                with self._callback():
                    self._target.close()
            except Exception:  # the pipeline ends all the same
                pass

    def export(self, batch: Batch, timeout: float) -> Outcome:
        outcome = Outcome()
        records: dict[int, EventRecord] = {}
        for event in batch.events:
            try:
                records[event.seq] = record_of(event, batch.session)
            except UNENCODABLE as error:
                outcome.dropped.append(Dropped(event.seq, ENCODE_ERROR, type(error).__name__))
            batch.pause()
        if not records:
            return outcome
        outcome.requests = 1
        try:
            with self._callback():
                result: Any = self._target.export(list(records.values()), timeout)
            self._note(result, records, outcome)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the text of a foreign exception may hold a payload or a key
            outcome.problem = f"{self._name}.export raised {type(error).__name__}"
        if outcome.problem is not None:
            outcome.kind = BUSY
        return outcome

    def _note(self, result: Any, records: Mapping[int, EventRecord], outcome: Outcome) -> None:
        if result is None or result is True:
            outcome.delivered = list(records)
        elif result is False:
            outcome.problem = f"{self._name}.export returned False"
        elif isinstance(result, ExportResult):
            delivered, rejected = set(result.delivered), set(result.rejected)
            for seq, record in records.items():
                if record.id in rejected:
                    outcome.dropped.append(Dropped(seq, REJECTED, f"by {self._name}"))
                elif record.id in delivered:
                    outcome.delivered.append(seq)
            if len(outcome.delivered) + len(outcome.dropped) < len(records):
                outcome.problem = result.problem or f"{self._name}.export did not deliver all events"
                outcome.retry_after = None if result.retry_after is None else str(float(result.retry_after))
        else:
            outcome.problem = (
                f"{self._name}.export returned {type(result).__name__}, expected None, a bool or an ExportResult"
            )
