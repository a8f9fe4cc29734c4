"""The architecture as a test: imports go down only, third-party packages have one home each, modules stay small."""

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

# The first pattern that matches a module decides. A module may import from its own layer and from those below.
LAYERS = (
    # 5: the edge
    ("agentscope", 5),
    ("agentscope.__main__", 5),
    ("agentscope.cli", 5),
    ("agentscope.checkup", 5),
    ("agentscope.replay", 5),
    ("agentscope.terminal", 5),
    ("agentscope.demo*", 5),
    ("agentscope.integrations*", 5),
    ("agentscope.server.serve", 5),
    ("agentscope.server.app", 5),
    ("agentscope.server.api", 5),
    ("agentscope.server.body", 5),
    ("agentscope.server.connection", 5),
    ("agentscope.server.history", 5),
    ("agentscope.server.ingest", 5),
    ("agentscope.server.intake", 5),
    ("agentscope.server.otlp", 5),
    ("agentscope.server.pages", 5),
    ("agentscope.server.security", 5),
    ("agentscope.server.sending", 5),
    ("agentscope.server.site", 5),
    ("agentscope.server.views", 5),
    # 4: the faces
    ("agentscope.tracker", 4),
    ("agentscope.voltagent*", 4),
    ("agentscope.face", 4),
    ("agentscope.guarding", 4),
    ("agentscope.recorder", 4),
    ("agentscope.placing", 4),
    ("agentscope.observe", 4),
    ("agentscope.handles", 4),
    ("agentscope.client", 4),
    ("agentscope.serverless", 4),
    # 3: composition
    ("agentscope.pipeline", 3),
    ("agentscope.delivery", 3),
    ("agentscope.pipeline.fanout", 3),
    # 1: decisions: no I/O, no clock, no thread
    ("agentscope.pipeline.batcher", 1),
    ("agentscope.pipeline.counts", 1),
    ("agentscope.pipeline.packing", 1),
    ("agentscope.pipeline.ledger", 1),
    ("agentscope.pipeline.retry", 1),
    ("agentscope.pipeline.stopping", 1),
    ("agentscope.protocols*", 1),
    ("agentscope.snapshot", 1),
    ("agentscope.describe", 1),
    ("agentscope.forms", 1),
    ("agentscope.rendering", 1),
    ("agentscope.recording", 1),
    ("agentscope.meter", 1),
    ("agentscope.redaction", 1),
    ("agentscope.secret_names", 1),
    ("agentscope.server", 1),
    ("agentscope.server.fold", 1),
    ("agentscope.server.limits", 1),
    ("agentscope.server.rows", 1),
    # 2: effects
    ("agentscope.log", 2),
    ("agentscope.pipeline.*", 2),
    ("agentscope.exporters*", 2),
    ("agentscope.server.hot", 2),
    ("agentscope.server.reading", 2),
    ("agentscope.server.retention", 2),
    ("agentscope.server.schema", 2),
    ("agentscope.server.store", 2),
    ("agentscope.server.writer", 2),
    ("agentscope.server.writing", 2),
    # 0: values
    ("agentscope.events", 0),
    ("agentscope.types", 0),
    ("agentscope.kinds", 0),
    ("agentscope.errors", 0),
    ("agentscope.checks", 0),
    ("agentscope.config", 0),
    ("agentscope.destinations", 0),
    ("agentscope.context", 0),
    ("agentscope.version", 0),
)

# Who may import which third-party package.
HOMES = {
    "requests": ("agentscope.exporters.connections", "agentscope.exporters.session"),
    "urllib3": ("agentscope.exporters.connections",),
    "tenacity": ("agentscope.pipeline.retry",),
    "orjson": ("agentscope.snapshot", "agentscope.protocols.strict_json"),
    "zstandard": ("agentscope.protocols.bodies", "agentscope.server.body"),
    "starlette": ("agentscope.server.*",),
    "opentelemetry": ("agentscope.integrations.otel",),
    "uvicorn": ("agentscope.server.serve", "agentscope.server.connection"),
}

# Decisions and values know no sockets, files, threads or clocks.
EFFECTS = frozenset({"socket", "ssl", "http", "sqlite3", "subprocess", "asyncio", "threading", "time", "selectors"})

UNPLACED = 6

EDGE_OF_BOTH = ("agentscope.cli", "agentscope.demo*")

MODULES = {
    ".".join(("agentscope", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def layer(module: str) -> int:
    for pattern, number in LAYERS:
        if fnmatchcase(module, pattern):
            return number
    return UNPLACED


def matches(module: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(module, pattern) for pattern in patterns)


def imports(module: str) -> Iterator[tuple[str, int]]:
    """Every module that one names, at its top, in functions and under TYPE_CHECKING, with the line."""
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
            and getattr(node.func, "id", None) in ("import_module", "_optional")
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.args[0].value, node.lineno


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    ups = [
        f"line {line}: {module} (layer {layer(module)}) imports {target} (layer {layer(target)})"
        for target, line in imports(module)
        if target in MODULES and layer(target) > layer(module)
    ]
    assert not ups


@pytest.mark.parametrize("module", MODULES)
def test_third_party_packages_are_imported_in_their_homes_only(module: str) -> None:
    strays = []
    for target, line in imports(module):
        top = target.partition(".")[0]
        if top not in sys.stdlib_module_names | {"agentscope"} and not matches(module, HOMES.get(top, ())):
            strays.append(f"line {line}: {module} imports {target}")
    assert not strays


@pytest.mark.parametrize("module", [name for name in MODULES if not matches(name, EDGE_OF_BOTH)])
def test_the_sdk_and_the_receiver_never_import_each_other(module: str) -> None:
    served = f"{module}.".startswith("agentscope.server.")
    shared = [name for name in MODULES if layer(name) <= 1]
    crossings = [
        f"line {line}: {module} imports {target}"
        for target, line in imports(module)
        if target in MODULES
        and f"{target}.".startswith("agentscope.server.") != served
        and not (served and (target in shared or target in ("agentscope.protocols", "agentscope.protocols.agentscope")))
    ]
    assert not crossings


@pytest.mark.parametrize("module", [name for name in MODULES if layer(name) <= 1])
def test_values_and_decisions_know_no_sockets_threads_or_clocks(module: str) -> None:
    used = [f"line {line}: {target}" for target, line in imports(module) if target.partition(".")[0] in EFFECTS]
    assert not used


@pytest.mark.parametrize("module", MODULES)
def test_a_module_fits_a_reader(module: str) -> None:
    lines = MODULES[module].read_text(encoding="utf-8").count("\n")
    assert lines <= 350, f"{module} has {lines} lines; 300 is the habit: what is its second reason to change?"


def test_every_module_has_its_place_in_the_table_of_layers() -> None:
    assert [module for module in MODULES if layer(module) == UNPLACED] == []


def test_the_table_of_layers_names_no_module_that_is_gone() -> None:
    later = {"agentscope.testing"}
    gone = [
        pattern for pattern, _ in LAYERS if pattern not in later and not any(matches(m, (pattern,)) for m in MODULES)
    ]
    assert not gone


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
    )
    program = "import sys, agentscope; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); {program}"],
        capture_output=True,
        text=True,
        check=True,
        # Measuring coverage imports a good deal of its own.
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
    )
    assert [name for name in heavy if name in done.stdout.split()] == []
