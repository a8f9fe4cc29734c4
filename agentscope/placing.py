"""Where a run or a step belongs, the way of its events into the pipeline, and what is said of calls that were wrong."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from . import context
from .context import Place
from .errors import AgentScopeError
from .recording import Fields
from .snapshot import prepare, text

if TYPE_CHECKING:
    from .config import Config
    from .pipeline import Pipeline
    from .pipeline.fanout import FanOut
    from .protocols.trace_context import Remote

LONGEST_ID = 255


class Placing:
    """What a `Recorder` stands on: one pipeline, and the runs that are open."""

    def __init__(self, config: Config, pipeline: Pipeline | FanOut) -> None:
        prepare()
        self.enabled = config.enabled
        self.limit = config.max_payload_bytes
        """Bytes that one payload field may take."""
        self.runs = context.runs_of(config.address, config.secrets, config.family)
        self.loud = not config.fail_silently
        self.announces = config.announces
        """Whether the start of a step is sent by itself."""
        self._sample_rate = config.sample_rate
        self.pipeline = pipeline
        self.meter = pipeline.meter
        weakref.finalize(self, pipeline.retire).atexit = False

    def place(self, run_id: Any, parent_id: Any) -> Place | None:
        """Where a step belongs; None, and said, if no run can be found."""
        parent, named = id_of(parent_id), id_of(run_id)
        if named is not None:
            self._check_known(named)
            run, step = self.runs.placed(named)
            return Place(run, parent or self.runs.parent_in(run) or step)
        place = self.runs.place()
        if place is not None:
            return place if parent is None else Place(place.run_id, parent)
        if self.runs.count() > 1:
            self.misused(
                "ambiguous_run",
                "several runs are open and this thread or task inherited none of them: "
                "pass run_id=…, or wrap its function in tracker.propagate()",
            )
        elif self.pipeline.closed:
            self._say_closed()
        else:
            self.misused("no_run", "no run is open: call start_run() first, or use `with tracker.track_run(...)`")
        return None

    def _check_known(self, run_id: str) -> None:
        if not self.runs.is_open(run_id) and not self.runs.has_ended(run_id):
            self.misused(
                "unknown_run", "a run_id was named that was not started in this process; it is sent all the same"
            )

    def new_step_id(self) -> str:
        """A UUID."""
        return self.pipeline.new_step_id()

    def say_mended(self, fields: Fields) -> None:
        for kind, sentence in fields.mended:
            self.misused(kind, sentence)

    def _say_closed(self) -> None:
        self.misused("after_shutdown", "a call came after shutdown() and is not recorded")

    def put(
        self,
        type_: str,
        run_id: str,
        step_id: str | None,
        parent_id: str | None,
        fields: Fields,
        urgent: bool,
    ) -> bool:
        """Enqueue one event. True if it was accepted."""
        values, size = fields.values, fields.size
        return self.pipeline.put(type_, run_id, step_id, parent_id, values, size, urgent) or self.refused()

    def refused(self) -> bool:
        """Say so if an event was not accepted because this has been shut down. False."""
        if self.pipeline.closed:
            self._say_closed()
        return False

    def inject(self, headers: Any) -> Any:
        from .protocols.trace_context import STATE, headers_of

        place = self.runs.place()
        if place is None:
            return headers
        names = {name.lower() if isinstance(name, str) else name: name for name in headers}
        state = headers.get(names.get(STATE, STATE))
        sampled = context.sampled(place.run_id, self._sample_rate)
        for name, value in headers_of(*place, sampled, state if isinstance(state, str) else None).items():
            headers[names.get(name, name)] = value
        return headers

    def extract(self, headers: Any) -> Remote | None:
        from .protocols.trace_context import remote_of

        return remote_of(headers) if self.enabled else None

    def current_run_id(self) -> str | None:
        place = self.runs.place()
        return None if place is None else place.run_id

    def misused(self, kind: str, sentence: str) -> None:
        """Count a call that could not be recorded as it was meant, and say so once; with `fail_silently=False` raise."""
        self.pipeline.misused(kind, sentence)
        if self.loud:
            raise AgentScopeError(sentence)

    def _failed(self, call: str, error: Exception) -> None:
        if self.loud:
            raise error
        # The interpreter's own words on a call that does not fit; they hold no payload.
        trace = error.__traceback__
        unfit = type(error) is TypeError and trace is not None and trace.tb_next is None
        told = text(error, 200) if unfit else type(error).__name__
        self.pipeline.misused("wrong_call", f"{call}() was called wrongly: {told}")


def id_of(value: Any) -> str | None:
    """An id that a caller named; None if it named none, or an empty one."""
    if type(value) is str and 0 < len(value) <= LONGEST_ID and value.isascii() and "\0" not in value:
        return value  # as it is, nearly always
    return None if value is None else text(value, LONGEST_ID) or None
