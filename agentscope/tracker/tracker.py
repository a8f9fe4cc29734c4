"""The AgentScope face: runs and steps, recorded by calls that only enqueue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload

from agentscope.errors import ConfigurationError
from agentscope.events import STEP_FIELDS, RunStatus, StepType
from agentscope.options import check_names, describe
from agentscope.protocols.ids import new_id
from agentscope.serialization.foreign import is_hosts

from .base import Face
from .fields import unknown
from .handles import Extracted, Run
from .never_raise import safe
from .steps import StartedStep, Step

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from agentscope.config import Options, TrackerOptions
    from agentscope.events import RunFields, StepFields

    from .client import AgentScopeClient

F = TypeVar("F", bound=Callable[..., Any])
H = TypeVar("H", bound=MutableMapping[Any, Any])

CaptureInput: TypeAlias = "bool | Collection[str] | Callable[[dict[str, Any]], Any]"
CaptureUsage: TypeAlias = "bool | Callable[[Any], Any]"


def _as_it_is(function: Any) -> Any:
    return function


def _do_nothing() -> None:
    """Undo nothing."""


class Tracker(Face):
    """Records runs and their steps. No call waits for the network, and none raises, unless `fail_silently=False`.

    The options are those of `create_tracker`; `help(create_tracker)` lists them. A `client` lends its key, address, timeout and
    `fail_silently` where they are not given.

    A worker thread starts with the first event. `with Tracker(...) as tracker:` shuts it down at the end; otherwise what is
    left is delivered when the tracker is collected, or at exit.
    """

    def __init__(
        self,
        client: AgentScopeClient | None = None,
        **options: Unpack[Options],
    ) -> None:
        check_names("Tracker", options)
        from agentscope.config import Config  # `import agentscope` alone does not pay for it

        given: dict[str, Any] = dict(options)
        if client is not None:
            _borrow(client, given)
        self.client: AgentScopeClient | None = client
        super().__init__(Config.load(given), given)

    @classmethod
    def over(cls, face: Face) -> Tracker:
        """A tracker that records by another face's pipeline, into the same runs."""
        tracker = cls.__new__(cls)
        tracker.client = None
        tracker._config, tracker._pipeline, tracker._recorder = face._config, face._pipeline, face._recorder
        return tracker

    # ---- runs ------------------------------------------------------------------------------------------------------

    @safe(lambda *_: new_id())
    def start_run(
        self,
        agent_name: str,
        input_data: Any = None,
        external_id: str | None = None,
        meta_data: Any = None,
        **fields: Unpack[RunFields],
    ) -> str:
        """Start a run and make it the current one of this context, until `end_run`. Returns its id, made here.

        fields: `user_id`, `conversation_id`, `environment`, `release` (texts), `tags` (a list of texts), `usage`.
        """
        return self._recorder.start_run(agent_name, input_data, external_id, meta_data, fields)

    @safe(lambda *_: False)
    def end_run(
        self, status: RunStatus = "completed", output: Any = None, error: Any = None, run_id: str | None = None
    ) -> bool:
        """End a run: the one named, else the current one. True if that was accepted.

        `error` may be an exception, or any value that describes one; with it the run has failed, whatever `status` says.
        """
        return self._recorder.end_run(status, output, error, run_id)

    @safe(lambda *_: Run(None, new_id(), None))
    def track_run(
        self,
        agent_name: str,
        input_data: Any = None,
        external_id: str | None = None,
        meta_data: Any = None,
        **fields: Unpack[RunFields],
    ) -> Run:
        """A block, `with` or `async with`, that is a run. It gives the run's id, a `Run`: set `output` on it.

        An exception that leaves the block ends the run as failed, or as cancelled if its task was cancelled, and goes on
        unchanged. fields: as for `start_run`; they may also be set on the `Run`.
        """
        recorder = self._recorder
        return Run(
            recorder if recorder.enabled else None, new_id(), agent_name, input_data, external_id, meta_data, fields
        )

    # ---- steps -----------------------------------------------------------------------------------------------------

    @safe(lambda *_: False)
    def track_step(
        self,
        name: str,
        step_type: StepType = "other",
        input_data: Any = None,
        output_data: Any = None,
        error: Any = None,
        tokens_used: int | None = None,
        latency_ms: float | None = None,
        meta_data: Any = None,
        run_id: str | None = None,
        parent_id: str | None = None,
        step_id: str | None = None,
        **fields: Unpack[StepFields],
    ) -> bool:
        """Record a step that is over, in the run `run_id`, by default the current one. True if it was accepted.

        `latency_ms` is its duration in milliseconds. `parent_id` is the step around it, by default the current one.
        `step_id` is its id, by default a new one. With a given id, its children can be recorded before it.
        fields: `model` and `provider` (texts), `usage` (a dict of token counts), `cost_usd` and `first_token_ms` (numbers).
        """
        return self._recorder.track_step(
            name,
            step_type,
            input_data,
            output_data,
            error,
            tokens_used,
            latency_ms,
            meta_data,
            run_id,
            parent_id,
            step_id,
            fields,
        )

    @safe(lambda *_: Step(None, None, "other"))
    def track_step_context(
        self,
        name: str,
        step_type: StepType = "other",
        input_data: Any = None,
        output_data: Any = None,
        tokens_used: int | None = None,
        latency_ms: float | None = None,
        meta_data: Any = None,
        run_id: str | None = None,
        parent_id: str | None = None,
        step_id: str | None = None,
        **fields: Unpack[StepFields],
    ) -> Step:
        """Record a block, `with` or `async with`, as a step, which the block gets as a `Step`. Steps inside it are its children.

        Its duration is measured. An exception that leaves the block is recorded, and goes on unchanged. fields: as for
        `track_step`; they may also be set on the `Step`.
        """
        step = Step(self._recorder, name, step_type, input_data, run_id, parent_id, step_id)
        if output_data is not None:
            step._give("output", output_data)
        if tokens_used is not None:
            step.tokens_used = tokens_used
        if latency_ms is not None:
            step.latency_ms = latency_ms
        if meta_data is not None:
            step._give("meta_data", meta_data)
        if fields:
            self._set_fields(step, fields)
        return step

    @safe(lambda *_: StartedStep(None, None, "other"))
    def start_step(
        self,
        name: str,
        step_type: StepType = "other",
        input_data: Any = None,
        meta_data: Any = None,
        run_id: str | None = None,
        parent_id: str | None = None,
        step_id: str | None = None,
        **fields: Unpack[StepFields],
    ) -> StartedStep:
        """Begin a step that `end` of the handle ends, in any thread: for callbacks, where a block does not fit.

        It does not become the current step: its children name it by `parent_id=step.id`. fields: as for `track_step`; they may
        also be set on the handle, or be given to `end`.
        """
        step = StartedStep(self._recorder, name, step_type, input_data, run_id, parent_id, step_id)
        if meta_data is not None:
            step._give("meta_data", meta_data)
        self._set_fields(step, fields)
        step.start()
        return step

    def _set_fields(self, step: Step, fields: Mapping[str, Any]) -> None:
        for field, value in fields.items():
            if field in STEP_FIELDS and STEP_FIELDS[field].given:
                step._give(field, value)
            else:
                self._recorder.invalid_call("unknown_field", unknown(field, STEP_FIELDS))

    # ---- functions -------------------------------------------------------------------------------------------------

    @overload
    def observe(
        self,
        function: F,
        /,
        *,
        name: str | None = None,
        step_type: StepType = "other",
        capture_input: CaptureInput = True,
        capture_output: bool = True,
        capture_usage: CaptureUsage = True,
    ) -> F: ...

    @overload
    def observe(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        step_type: StepType = "other",
        capture_input: CaptureInput = True,
        capture_output: bool = True,
        capture_usage: CaptureUsage = True,
    ) -> Callable[[F], F]: ...

    @safe(lambda self, function=None, *_: function if callable(function) else _as_it_is)
    def observe(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        step_type: StepType = "other",
        capture_input: CaptureInput = True,
        capture_output: bool = True,
        capture_usage: CaptureUsage = True,
    ) -> Any:
        """Decorate a function: every call is a step, or a run if none is open.

        The step ends with the call. If the result is a generator, a coroutine, another awaitable, a future or a stream, the step
        ends when that is consumed, closed or collected, and its items are the output: texts joined, others as a list.

        capture_input: False records no arguments, a list of names only these. A function gets the arguments as a dict and
        returns what is recorded. `self` and `cls` are left out. capture_output: False records no result. capture_usage: True
        takes token counts from a result that carries them as `usage` or `usage_metadata`. A function gets the result, or each
        item of a stream, and returns the counts or None.
        """

        from .observe import observed  # imports much, and not every program needs it

        if issubclass(type(function), str):
            self._recorder.invalid_call("not_observable", 'observe() takes a function; its name is given as name="…"')
            function, name = None, name or function

        def decorate(function: Any) -> Any:
            return observed(self._recorder, function, name, step_type, capture_input, capture_output, capture_usage)

        return decorate if function is None else decorate(function)

    @safe(lambda self, function=_as_it_is, *_: function)
    def propagate(self, function: F) -> F:
        """Bind `function` to the run and step that are current now, for a thread, which inherits no context.

        Functions, coroutines, generators and async generators. Where nothing is current, as at import time, a call has the
        run and step of its caller.
        """
        from .propagation import propagated

        carried: F = propagated(function)
        return carried

    @safe(lambda *_: _do_nothing)
    def instrument(self, what: Literal["threads"]) -> Callable[[], None]:
        """Make new threads, pools, timers and greenlets inherit the current run and step. Returns the function that undoes it.

        It patches `threading.Thread`, `ThreadPoolExecutor`, `multiprocessing.pool.ThreadPool`, `anyio.to_thread.run_sync`, and
        the `spawn` functions of gevent and eventlet, for the whole process. An inherited run counts while it is open.
        """
        if what != "threads":
            self._recorder.invalid_call("not_instrumentable", 'instrument() knows only "threads"')
            return _do_nothing
        from .instrument import inherit  # imports pools, and few programs need it

        return inherit()

    @overload
    def lambda_handler(self, function: F, /, *, margin: float = 0.5, timeout: float = 2.0) -> F: ...

    @overload
    def lambda_handler(
        self, function: None = None, /, *, margin: float = 0.5, timeout: float = 2.0
    ) -> Callable[[F], F]: ...

    @safe(lambda self, function=None, *_: function if callable(function) else _as_it_is)
    def lambda_handler(self, function: Any = None, /, *, margin: float = 0.5, timeout: float = 2.0) -> Any:
        """Decorate a serverless function `(event, context)`, or a coroutine: its events are sent before it returns.

        Sending takes `timeout` seconds at most, and stops `margin` seconds before the time limit of the call if the context
        has one. Put it above `observe`.
        """
        from .serverless import flushing  # few programs need it

        limits = self._seconds(margin, 0.5), self._seconds(timeout, 2.0)

        def decorate(function: Any) -> Any:
            try:
                return flushing(function, self._recorder, *limits)
            except Exception as error:  # an object whose attributes are traps
                if is_hosts(error):
                    raise
                self._failed("lambda_handler", error)
                return function

        return decorate if function is None else decorate(function)

    # ---- other processes -------------------------------------------------------------------------------------------

    @safe(lambda self, headers, *_: headers)
    def inject(self, headers: H) -> H:
        """Put the current run and step into the headers of a request, and return them: `traceparent` and `tracestate`.

        headers: a mapping that can be changed, such as a dict. Unchanged if no run is current.
        https://www.w3.org/TR/trace-context/
        """
        injected: H = self._recorder.inject(headers)
        return injected

    @safe(lambda *_: Extracted(None))
    def extract(self, headers: Any) -> Extracted:
        """A block, `with` or `async with`, in which the run and step are current that a request's headers name.

        Steps inside it become part of the sender's run, and a run inside it becomes a step of that run, an `agent`. headers: a
        mapping, or pairs of name and value, as str or bytes. Headers that name nothing change nothing.
        """
        remote = self._recorder.extract(headers)
        return Extracted(None) if remote is None else Extracted(self._recorder, remote.run_id, remote.step_id)

    @property
    def current_run_id(self) -> str | None:
        """The run that a step tracked here and now would belong to."""
        return self._recorder.current_run_id()


def _borrow(client: AgentScopeClient, options: dict[str, Any]) -> None:
    """Take missing options from the client."""
    for name in ("api_key", "base_url", "timeout", "fail_silently"):
        try:
            lent = getattr(client, name)
        except AttributeError:
            raise ConfigurationError(
                f"client (from argument) must be an AgentScopeClient, not {type(client).__name__}; "
                "the key is given as api_key=…"
            ) from None
        if options.get(name) is None and lent != "":  # a client without a key
            options[name] = lent


RunTracker = Tracker


def create_tracker(
    api_key: str | None = None, base_url: str | None = None, **options: Unpack[TrackerOptions]
) -> Tracker:
    check_names("create_tracker", options)
    return Tracker(api_key=api_key, base_url=base_url, **options)


create_tracker.__doc__ = f"""Make a tracker for this key and address.

Each option may also be set in the environment, by `AGENTSCOPE_` and its name in capitals, but for `exporters` and `on_drop`. None
is the same as not given. `ConfigurationError` is raised for a value that cannot work.

Options:

{describe()}
"""
