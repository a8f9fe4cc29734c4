"""Trackers in a pickle. It holds no key and no callback.

The process that loads pickles of one tracker makes one tracker for all of them, from the options of the original and from its
own environment. If that fails, such as for a missing key, the tracker is disabled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary, ref

from agentscope.protocols.ids import new_id
from agentscope.serialization.foreign import called, is_hosts

from .context import bounded
from .recorder import Recorder

if TYPE_CHECKING:
    from agentscope.config import Config

MOST_REMADE = 100
"""Trackers made from pickles that are kept, so that all pickles of a tracker give the same one."""
_NOT_CARRIED = frozenset({"api_key", "public_key", "secret_key", "headers", "on_drop", "exporters"})

_known: WeakValueDictionary[str, Recorder] = WeakValueDictionary()
_remade: dict[str, Any] = {}


class Origin:
    """A tracker as its pickles carry it: its class, its options, and the token under which a process knows it."""

    def __init__(self, face: Any, config: Config, options: Mapping[str, Any]) -> None:
        self.token = new_id()
        self.face = ref(face)
        self._kind = type(face)
        self._options = {
            name: value for name, value in options.items() if value is not None and name not in _NOT_CARRIED
        }
        self._exporters = config.exporters if options.get("exporters") is not None else None

    def known_as(self, token: str, recorder: Recorder) -> None:
        """Let pickles with this token find the tracker in this process."""
        self.token = token
        _known[token] = recorder

    def of_recorder(self) -> tuple[Any, ...]:
        """Return the `__reduce__` of the recorder, which decorated functions hold."""
        return _recorder_from, self._recipe()

    def of_face(self, wanted: type) -> tuple[Any, ...]:
        """Return the `__reduce__` of the tracker, or of another face over the same recorder."""
        return _face_from, (wanted, *self._recipe())

    def _recipe(self) -> tuple[str, type, dict[str, Any] | None]:
        """Return token, class, and options; None for the options if the copy can only be a disabled tracker."""
        options: dict[str, Any] | None = dict(self._options)
        if options is not None and self._exporters is not None:
            options["exporters"] = [
                (type(item), {name: getattr(item, name) for name in _public_fields(item)})
                for item in self._exporters
                if item.ADDRESS
            ]
        import pickle

        carried = called(lambda: pickle.dumps(options), None)
        # A function for redaction may not be: then nothing may be recorded.
        return self.token, self._kind, None if carried is None else options


def _public_fields(exporter: Any) -> list[str]:
    from dataclasses import fields  # `import agentscope` stays light

    return [field.name for field in fields(exporter) if field.name not in exporter.SECRETS]


def _recorder_from(token: str, kind: type, options: dict[str, Any] | None) -> Any:
    """Return the recorder of a pickle."""
    return _known.get(token) or _face_from(kind, token, kind, options)._recorder


def _face_from(wanted: Any, token: str, kind: Any, options: dict[str, Any] | None) -> Any:
    """Return the tracker of a pickle: the one that this process has, else one that it makes."""
    known = _known.get(token)
    face = None if known is None else known.origin.face()
    if face is None:
        face = _remade.setdefault(token, _made(kind, options))
        face._recorder.origin.known_as(token, face._recorder)
        bounded(_remade, MOST_REMADE)
    return face if isinstance(face, wanted) else wanted.over(face)


def _made(kind: Any, options: dict[str, Any] | None) -> Any:
    problem = "its options cannot be pickled"
    if options is not None:
        try:
            exporters = options.get("exporters")
            if exporters is not None:
                options = {**options, "exporters": [made(**values) for made, values in exporters]}
            return kind(**options)
        except Exception as error:
            if is_hosts(error):
                raise
            problem = str(error)
    import logging  # not at the top, to keep the import of agentscope light

    logging.getLogger("agentscope").warning(
        "a tracker that came by pickle records nothing in this process: %s", problem
    )
    return kind(enabled=False)
