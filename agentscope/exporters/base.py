"""The base of destinations: the values that `exporters=[…]` takes, and the senders that they make.

A destination is one module of this folder. Its class lists the options of a tracker that describe it, checks its own fields, and
makes the sender that delivers batches. Nothing outside of this folder knows one destination from another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple, NoReturn, Protocol, TypeVar
from weakref import WeakValueDictionary

from agentscope.errors import ConfigurationError
from agentscope.options import NO_HEADERS, OPTIONS, check_api_key
from agentscope.protocols.base import Exporter as Sender
from agentscope.protocols.base import WireProtocol

from .http.url import is_loopback, target_of

D = TypeVar("D", bound="Destination")
P = TypeVar("P", bound=WireProtocol)

NO_KEY = "none"
"""The key that is sent where none was given. A receiver without a key takes any that is not empty."""


class Settings(Protocol):
    """The part of a tracker's configuration that a sender is made from."""

    @property
    def max_batch_bytes(self) -> int: ...

    @property
    def max_connections(self) -> int: ...

    @property
    def service_name(self) -> str: ...


class Host(NamedTuple):
    """Functions of the process that senders use."""

    clock: Callable[[], float]
    start_thread: Callable[[Callable[[], object], str], bool]
    callback: Callable[[], AbstractContextManager[None]]
    """A context for calls of the user's code: events that are recorded inside are refused."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Destination:
    """One destination. A field that is None has the tracker's value. Times are in seconds, sizes in bytes.

    A tracker with several exporters gives each event to all of them. Each has a queue, a retry and counts of its own.
    """

    batch_size: int | None = None
    flush_interval: float | None = None
    timeout: float | None = None
    max_queue_bytes: int | None = None
    max_batch_bytes: int | None = None
    max_retries: int | None = None
    retry_delay: float | None = None
    shutdown_timeout: float | None = None

    PROTOCOL: ClassVar[str] = ""
    """The value of the option `protocol` that chooses this destination."""
    OPTIONS: ClassVar[tuple[str, ...]] = ()
    """The options of a tracker that are fields of this destination, where it is chosen by `protocol`."""
    INHERITED: ClassVar[tuple[str, ...]] = ()
    """Those of `OPTIONS` that are also taken from the tracker where `exporters` lists this destination without them."""
    ADDRESS: ClassVar[str] = ""
    """The field that holds the address; empty if the destination cannot be made from an address."""
    SECRETS: ClassVar[tuple[str, ...]] = ()
    """Fields whose values are never shown."""
    ANNOUNCES_STEPS: ClassVar[bool] = False
    """The start of a step has to arrive before the steps inside it."""
    ORDERS_EVENTS: ClassVar[frozenset[str]] = frozenset()
    """Negotiated protocols whose backend puts events into their order by itself."""
    KINDS: ClassVar[dict[str, type[Destination]]] = {}
    """All classes of destinations by name."""

    def __init_subclass__(cls) -> None:
        Destination.KINDS[cls.__name__] = cls

    def __repr__(self) -> str:
        shown = [
            f"{item.name}=…" if item.name in self.SECRETS else f"{item.name}={getattr(self, item.name)!r}"
            for item in fields(self)
            if getattr(self, item.name) not in (None, "", NO_HEADERS)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a key and is not pickled: make it in the process that uses it")

    def __copy__(self: D) -> D:
        return self

    def __deepcopy__(self: D, memo: object) -> D:
        return self

    def checked(self: D, environ: Mapping[str, str] | None = None) -> D:
        """Check the fields and take missing values from the environment.

        Raises `ConfigurationError` for the first value that cannot work.
        """
        return replace(
            self, **{name: OPTIONS[name].check(value, name, "argument") for name, value in self.overrides().items()}
        )

    def overrides(self) -> dict[str, Any]:
        """Return the options of a tracker that this destination sets for itself."""
        names = (field.name for field in fields(Destination))
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @classmethod
    def at(cls: type[D], url: str) -> D:
        """Make a destination with this address; all else comes from the environment."""
        values: dict[str, Any] = {cls.ADDRESS: url}
        return cls(**values)

    @property
    def url(self) -> str:
        """The address, as it is shown and as the spool knows this destination."""
        url: str = getattr(self, self.ADDRESS)
        return url

    @property
    def identity(self) -> str:
        """A text that is the same for destinations that share their runs."""
        return self.url

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that must never be sent as part of an event."""
        return ()

    @property
    def exposed(self) -> str | None:
        """Host and port to which a key is sent without encryption; None if there is none."""
        return None

    @property
    def spooled(self) -> bool:
        """False: events for this destination stay in memory even where the tracker has a spool."""
        return True

    def sender(self, settings: Settings, host: Host) -> Callable[[], Sender]:
        """Make a function that makes senders to this destination; they share what is learnt of the backend."""
        raise NotImplementedError


class HTTPDestination(Destination):
    """A destination that is reached over HTTP by one of the wire protocols."""

    def request_headers(self) -> Mapping[str, str]:
        """Return the headers of each request, keys included."""
        raise NotImplementedError

    def protocol(self, settings: Settings) -> WireProtocol:
        """Return the wire protocol, shared with all senders to the same backend."""
        raise NotImplementedError

    @property
    def exposed(self) -> str | None:
        is_plain = self.url.lower().startswith("http:") and not is_loopback(self.url)
        return target_of(self.url) if is_plain and self.secrets else None

    @property
    def root(self) -> str:
        """The part of the address that is the same for all requests."""
        return self.url

    @property
    def trusted_certificates(self) -> str | None:
        """The file of certificates to trust instead of the usual ones."""
        return None

    def shared(self, make: Callable[[], P], *details: Hashable) -> P:
        """Return the protocol object of this backend, made once for each different set of `details`.

        Trackers that send to the same backend share its runs, so they share what is learnt of it. It outlives a fork.
        """
        key = (type(self).__name__, self.url, hash(self.secrets), *details)
        protocol: P = _protocols.get(key) or _protocols.setdefault(key, make())
        return protocol

    def sender(self, settings: Settings, host: Host) -> Callable[[], Sender]:
        from .http.exporter import HTTPExporter
        from .http.transport import Transport

        protocol, headers = self.protocol(settings), self.request_headers()
        connections = settings.max_connections

        def make() -> Sender:
            return HTTPExporter(
                protocol,
                Transport(self.root, headers, max_connections=connections, certificate=self.trusted_certificates),
                max_connections=connections,
                clock=host.clock,
                start_thread=host.start_thread,
            )

        return make


_protocols: WeakValueDictionary[tuple[Hashable, ...], Any] = WeakValueDictionary()


def given_or_variable(value: str | None, variable: str, environ: Mapping[str, str] | None) -> tuple[str | None, str]:
    """Return an argument, else a variable's text if that is not empty, and the source; None if there is neither."""
    if value is not None:
        return value, "argument"
    return (os.environ if environ is None else environ).get(variable) or None, f"environment variable {variable}"


def key_for(
    url: str, value: str | None, option: str, variable: str, environ: Mapping[str, str] | None = None
) -> str | None:
    """Return the key for this address; None if none is given and the address is on this machine.

    Raises `ConfigurationError` for a key that is empty, and for any other address without a key.
    """
    key, source = given_or_variable(value, variable, environ)
    if key is not None:
        return check_api_key(key, option, source)
    if is_loopback(url):
        return None
    raise ConfigurationError(
        f"{option} is missing: pass {option}=… or set {variable}. Only a receiver on this machine needs no key"
    )
