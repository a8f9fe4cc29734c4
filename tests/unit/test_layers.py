"""The layers: folders import downwards only, without a circle, and few modules import each third-party package."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import agentscope

PACKAGE = Path(agentscope.__file__).parent

# From the top down. A module imports from its own folder and from the rows below; folders of one row do not import each other.
ROWS = (
    ("cli", "integrations", "testing", "voltagent"),
    ("tracker",),
    ("pipeline",),
    ("config",),
    ("exporters",),
    ("protocols",),
    ("serialization",),
    ("types", "options"),
    ("events", "errors", "_version"),
)

# The receiver is a program of its own on the same protocols. Only the command starts it.
SERVER_MAY_USE = {"server"}.union(*ROWS[ROWS.index(("protocols",)) :])

# The modules that may import each third-party package.
HOMES = {
    "requests": ("agentscope.exporters.http.deadline", "agentscope.exporters.http.session"),
    "urllib3": ("agentscope.exporters.http.deadline",),
    "typing_extensions": (
        "agentscope.tracker.tracker",
        "agentscope.tracker.steps",
        "agentscope.voltagent.sdk",
    ),  # for type checkers only
    "tenacity": ("agentscope.pipeline.retry",),
    "snapshot_restore_py": ("agentscope.pipeline.process.lifecycle",),
    "orjson": ("agentscope.serialization.snapshot", "agentscope.protocols.json_decode"),
    "zstandard": ("agentscope.protocols.compression", "agentscope.server.http.body"),
    "starlette": ("agentscope.server.*",),
    "opentelemetry": ("agentscope.integrations.otel", "agentscope.server.ingest.otlp_protobuf"),
    "google": ("agentscope.server.ingest.otlp_protobuf",),
    "anyio": ("agentscope.tracker.instrument",),
    "prometheus_client": ("agentscope.server.metrics",),
    "uvicorn": ("agentscope.server.receiver", "agentscope.server.http.connection"),
}

# Folders without effects: they use no sockets, files, threads or clocks.
PURE = ("protocols", "serialization", "events", "types", "errors", "options", "_version")
EFFECTS = frozenset({"socket", "ssl", "http", "sqlite3", "subprocess", "asyncio", "threading", "time", "selectors"})

CLOCKS = ("agentscope.serialization.fallback",)
"""Their cost is bounded in time, and only a clock tells it."""

MODULES = {
    ".".join(("agentscope", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def folder(module: str) -> str:
    """The name at the package's root that a module belongs to; empty for the package itself."""
    return [*module.split("."), ""][1]


def may_import(source: str, target: str) -> bool:
    if source in ("", "__main__") or source == target:
        return True
    if source == "server":
        return target in SERVER_MAY_USE
    if target == "server":
        return source == "cli"
    rows = [next((number for number, row in enumerate(ROWS) if name in row), -1) for name in (source, target)]
    return -1 < rows[0] < rows[1]


def matches(module: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(module, pattern) for pattern in patterns)


def imports(module: str) -> Iterator[tuple[str, int]]:
    """The imported modules with their lines, inside functions and under TYPE_CHECKING too."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                kept = parents[: len(parents) - node.level + 1]
                base = ".".join([*kept, base] if base else kept)
            for alias in node.names:
                # `from package import module` names the module, `from module import name` does not.
                inner = f"{base}.{alias.name}"
                yield (inner if inner in MODULES else base), node.lineno
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "id", None) == "import_module"
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.args[0].value, node.lineno


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    ups = [
        f"line {line}: {module} imports {target}"
        for target, line in imports(module)
        if target in MODULES and not may_import(folder(module), folder(target))
    ]
    assert not ups


def test_no_module_imports_itself_over_others() -> None:
    graph = {module: {target for target, _ in imports(module) if target in MODULES} for module in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path[path.index(module) :], module))
        if module not in done:
            for target in graph[module]:
                visit(target, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_third_party_packages_are_imported_in_their_homes_only(module: str) -> None:
    strays = []
    for target, line in imports(module):
        top = target.partition(".")[0]
        if top not in sys.stdlib_module_names | {"agentscope"} and not matches(module, HOMES.get(top, ())):
            strays.append(f"line {line}: {module} imports {target}")
    assert not strays


@pytest.mark.parametrize("module", [name for name in MODULES if folder(name) in PURE])
def test_values_and_decisions_know_no_sockets_threads_or_clocks(module: str) -> None:
    effects = EFFECTS - {"time"} if module in CLOCKS else EFFECTS
    used = [f"line {line}: {target}" for target, line in imports(module) if target.partition(".")[0] in effects]
    assert not used


def test_the_listing_of_the_package_tells_the_architecture() -> None:
    listed = {folder(module) for module in MODULES} - {"", "__main__"}
    assert listed <= {name for row in ROWS for name in row} | {"server"}
    assert len(listed) <= 15


@pytest.mark.parametrize("module", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_an_init_hands_names_on_and_does_nothing_else(module: str) -> None:
    allowed = {"__getattr__", "__dir__"} if module in ("agentscope", "agentscope.voltagent") else set()
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        assert not isinstance(node, ast.ClassDef | ast.AsyncFunctionDef), ast.unparse(node)
        assert not isinstance(node, ast.FunctionDef) or node.name in allowed, ast.unparse(node)


def test_importing_the_package_stays_light() -> None:
    heavy = (
        "requests",
        "tenacity",
        "urllib3",
        "starlette",
        "uvicorn",
        "asyncio",
        "ssl",
        "http.client",
        "sqlite3",
        "hashlib",
        "dataclasses",
        "inspect",
        "agentscope.pipeline.pipeline",
        "agentscope.serialization.fallback",
    )
    program = "import sys, agentscope; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); {program}"],
        capture_output=True,
        text=True,
        check=True,
        # The measurement of coverage imports many modules itself.
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
    )
    assert [name for name in heavy if name in done.stdout.split()] == []
