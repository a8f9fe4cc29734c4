"""The search for leaked secrets: all output of this package during the tests is searched for keys and payloads.

Every key that a test uses is a secret, and so is every longer text that it tracks as a payload. `Watch` searches log calls of
every library at every level, URLs, headers, exceptions, warnings, results, reprs, the output of tests and programs, pickles, and
the files that a test leaves behind. A leak fails the test that runs; a leak after the last test fails the session. Tests need no
code for it.
"""

from __future__ import annotations

import functools
import http.client
import logging
import pickle
import re
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agentscope import AgentScopeError, FlushResult, Stats
from agentscope.events import DeferredFields
from agentscope.exporters.http.transport import Transport
from agentscope.pipeline.pipeline import Pipeline
from agentscope.serialization.snapshot import unsealed
from agentscope.tracker.base import Face
from tests.support.proxy import FaultProxy

KEYS = frozenset({"ask_test", "ask_canary_0123456789"})
"""Keys that tests give to child processes, where the search does not see them."""
SECRET = "canary-5d07f1a2-of-a-password"
"""A payload value under a secret name, which must appear nowhere."""
SHORTEST_KEY = 8
"""The least length of a key in characters. Shorter ones are ordinary words, which redaction does not mask either."""
_PLAIN_HEADERS = frozenset({"user-agent", "accept", "content-type"})
_KEY_HEADERS = frozenset(
    {"x-agentscope-key", "x-public-key", "x-secret-key", "authorization", "api-key", "x-honeycomb-team"}
)
_SHORTEST_PAYLOAD, _LONGEST_PAYLOAD, _PAYLOADS = 14, 2048, 200
_STRING = re.compile(rb'"([^"\\]{12,})"(?!\s*:)')
_LARGEST_FILE = 8 << 20
_SOURCES = frozenset({".py", ".pem", ".toml", ".json", ".md"})
"""Names of files that tests write, and the package does not."""
_LOG_CALLS = ("debug", "info", "warning", "error", "critical", "log")


class Watch:
    """A plugin of pytest. `leaks` holds the leaks that are not reported yet, each with its place and its text."""

    def __init__(self) -> None:
        self.leaks: deque[str] = deque()
        self.keys: set[str] = set(KEYS)
        """The keys of the current test, and the usual ones."""
        self._payloads: deque[bytes] = deque(maxlen=_PAYLOADS)
        self._faces: weakref.WeakSet[Face] = weakref.WeakSet()
        self._undo: list[tuple[Any, str, Any]] = []
        self._busy = threading.local()
        self._test = ""

    # ---- secrets -----------------------------------------------------------------------------------------------------

    def look(self, where: str, text: str | bytes | None) -> None:
        """Search a text that may hold payloads, for keys."""
        if not text:
            return
        for word in (*self.keys, SECRET):
            canary: Any = word.encode() if isinstance(text, bytes) else word
            if canary in text and (place := self._word(canary, text)) is not None:
                self._found(where, word, text[max(place - 60, 0) : place + 60])

    def look_closely(self, where: str, text: str | None) -> None:
        """Search a text that may hold neither keys nor payloads."""
        self.look(where, text)
        for payload in self._strings() if text else ():
            if text is not None and payload in text:
                self._found(where, payload, text[:200])

    @staticmethod
    def _word(canary: Any, text: Any) -> int | None:
        """The position of a secret as a whole word: `ask_test` is not in `task_test`."""
        pattern = (
            rb"(?<![0-9A-Za-z])%s(?![0-9A-Za-z_])" if isinstance(text, bytes) else r"(?<![0-9A-Za-z])%s(?![0-9A-Za-z_])"
        )
        found = re.search(pattern % re.escape(canary), text)
        return found and found.start()

    def _strings(self) -> Iterable[str]:
        for payload in list(self._payloads):
            for string in _STRING.findall(payload):
                yield string.decode("utf-8", "replace")

    def _found(self, where: str, canary: str, text: str | bytes) -> None:
        shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        self.leaks.append(f"{self._test}: in {where}: {shown.replace(canary, f'<{canary[:6]}…>')!r}")

    # ---- places ------------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Install the search."""
        for name in _LOG_CALLS:
            self._around(logging.Logger, name, self._log_call)
        self._around(http.client.HTTPConnection, "putrequest", self._after(lambda c, method, url: self._request(url)))
        self._around(AgentScopeError, "__init__", self._after(lambda error, *args: self._exception(error, args)))
        self._around(FlushResult, "__init__", self._after(lambda result: self._result(result.problem)))
        self._around(Stats, "__init__", self._after(lambda stats: self._result(stats.problem, *stats.dropped)))
        self._around(Transport, "__init__", self._after(lambda transport: self._learn_headers(transport._headers)))
        self._around(Face, "__init__", self._after(lambda face: self._learn_face(face)))
        self._around(FaultProxy, "__exit__", self._after(lambda proxy: self._proxied(proxy)))
        self._around(Pipeline, "put", self._put)
        self._around(subprocess.Popen, "communicate", self._outputs("the output of a program"))
        self._around(pytest.CaptureFixture, "readouterr", self._outputs("the output"))
        self._around(pickle, "dumps", self._pickled)

    def uninstall(self) -> None:
        """Remove the search."""
        while self._undo:
            owner, name, original = self._undo.pop()
            if original is None:
                delattr(owner, name)
            else:
                setattr(owner, name, original)

    def _around(self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        original = getattr(owner, name)
        self._undo.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, functools.wraps(original)(make(original)))

    @staticmethod
    def _after(see: Callable[..., None]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Call `see` after the method, with as many of its arguments as `see` takes."""
        count = see.__code__.co_argcount
        everything = bool(see.__code__.co_flags & 4)

        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                result = original(*args, **kwargs)
                see(*(args if everything else args[:count]))
                return result

            return call

        return make

    def _log_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        # Around the call and not in a handler: a record below the level of these tests is logged at the level of some user.
        def call(logger: logging.Logger, *args: Any, **kwargs: Any) -> None:
            if not getattr(self._busy, "logging", False):  # the logged object may log in its own repr
                self._busy.logging = True
                try:
                    self._logged(logger, [arg for arg in args if not isinstance(arg, int)], kwargs.get("exc_info"))
                finally:
                    self._busy.logging = False
            original(logger, *args, **{**kwargs, "stacklevel": kwargs.get("stacklevel", 1) + 1})

        return call

    def _logged(self, logger: logging.Logger, parts: list[Any], error: object) -> None:
        told = " ".join(part for part in parts if isinstance(part, str))
        errors = [part for part in (*parts, error) if isinstance(part, BaseException)]
        for part in errors:
            told += f" {part}"
        self.look_closely(f"a log call of {logger.name}", told)

    def _request(self, url: str) -> None:
        self.look_closely("a URL", url)

    def _exception(self, error: Exception, args: Iterable[object]) -> None:
        self.look_closely(f"a {type(error).__name__}", f"{args}")

    def _result(self, *texts: str | None) -> None:
        for text in texts:
            self.look_closely("a result", text)

    def _proxied(self, proxy: FaultProxy) -> None:
        for request in list(proxy.requests):
            self._request(request.target)
            self.look("a body", request.body)
            for name, value in request.headers:
                if name.lower() not in _KEY_HEADERS:
                    self.look_closely(f"the header {name}", value)

    def _put(self, original: Callable[..., bool]) -> Callable[..., bool]:
        remember = self._payloads.append

        def put(*args: Any, **kwargs: Any) -> bool:
            fields = args[5]
            if isinstance(fields, DeferredFields):
                with suppress(Exception):  # the worker drops an event whose fields cannot be made
                    fields = fields.make()
            values = fields.values() if isinstance(fields, dict) else fields if isinstance(fields, tuple) else ()
            for value in values:
                if type(value) is bytes and _SHORTEST_PAYLOAD <= len(value) <= _LONGEST_PAYLOAD:
                    with suppress(ValueError, EOFError, TypeError):  # likewise one whose payload is broken
                        remember(unsealed(value)[0])
            return original(*args, **kwargs)

        return put

    def _outputs(self, where: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                outputs = original(*args, **kwargs)
                for output in outputs:
                    self.look(where, output)
                return outputs

            return call

        return make

    def _pickled(self, original: Callable[..., bytes]) -> Callable[..., bytes]:
        def dumps(*args: Any, **kwargs: Any) -> bytes:
            data = original(*args, **kwargs)
            self.look("a pickle", data)
            return data

        return dumps

    # ---- keys in use -------------------------------------------------------------------------------------------------

    def learn(self, key: str) -> None:
        """Note a key that is in use."""
        if len(key) >= SHORTEST_KEY:
            self.keys.add(key)

    def _learn_headers(self, headers: dict[str, str]) -> None:
        for name, value in headers.items():
            if isinstance(value, str) and str(name).lower() in _KEY_HEADERS:
                self.learn(value.rpartition(" ")[2])

    def _learn_face(self, face: Face) -> None:
        for secret in face._config.secrets:
            self.learn(secret)
        self._faces.add(face)

    # ---- hooks of pytest -------------------------------------------------------------------------------------------

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._test = item.name
        self.keys = set(KEYS)
        self._payloads.clear()

    def pytest_warning_recorded(self, warning_message: Any) -> None:
        # pytest reports warnings after the test's last report, so the next test fails and names this one.
        self.look_closely("a warning", str(warning_message.message))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when == "teardown":
            self._look_back(item, report)
            if self.leaks:
                report.outcome = "failed"
                report.longrepr = self.told()
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.leaks:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            if (output := getattr(session.config, "workeroutput", None)) is not None:
                output["leaks"] = list(self.leaks)  # a worker of pytest-xdist has no terminal

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.leaks.extend(getattr(node, "workeroutput", {}).get("leaks", ()))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.leaks:
            terminalreporter.write_line(f"after the last test: {self.told()}", red=True)

    def pytest_unconfigure(self) -> None:
        self.uninstall()

    def told(self) -> str:
        """Return the leaks so far, and forget them."""
        found = []
        while self.leaks:
            found.append(self.leaks.popleft())
        return "A secret got out.\n" + "\n".join(dict.fromkeys(found))

    def _look_back(self, item: pytest.Item, report: pytest.TestReport) -> None:
        for face in list(self._faces):
            self.look_closely("a repr", repr(face) + repr(face._config))
        for name, content in report.sections:
            self.look(name.lower(), content)
        folder = getattr(item, "funcargs", {}).get("tmp_path")
        for path in sorted(folder.rglob("*")) if isinstance(folder, Path) else ():
            self.look_into(path)

    def look_into(self, path: Path) -> None:
        """Search a file that a test left behind."""
        try:
            if path.suffix not in _SOURCES and path.is_file() and path.stat().st_size <= _LARGEST_FILE:
                self.look(f"the file {path.name}", path.read_bytes())
        except OSError:
            pass  # another library's, or removed meanwhile
