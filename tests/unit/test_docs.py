"""The documents say what is there: commands, options, counts, drop reasons, tests, files and links."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from agentscope import Stats
from agentscope.cli.main import build_parser
from agentscope.config import Config, env_name
from agentscope.events import FIELDS, RUN_FIELDS, RUN_STATUSES, STEP_FIELDS, STEP_TYPES, Field
from agentscope.protocols import drop_reasons
from agentscope.server.app import Front
from agentscope.server.http.addressing import Addressing
from agentscope.server.http.gate import PROBES
from agentscope.server.http.keys import Keys
from agentscope.server.http.limits import Limits
from agentscope.server.metrics import add_disk_gauges

from ..support.documents import EVERY, FAULTS, GUIDES, MAP, README, commands, headings, name_of, table, text_of
from ..support.program import ROOT
from .server.storage.memory_store import MemoryStore
from .test_layers import ROWS

GUIDE = {path.stem: path for path in GUIDES}
DEPLOYMENT = ROOT / "examples" / "production"
WITHOUT_VARIABLE = ("exporters", "on_drop")
SET_UPS = [
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[server]' && .venv/bin/agentscope demo",
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[server,dev]' && .venv/bin/pytest",
]


def plain(cell: str) -> str:
    return cell.strip("`")


def test_the_readme_is_short_and_opens_with_the_two_set_ups() -> None:
    readme = text_of(README)
    assert len(readme.encode()) <= 14_000
    assert [line for line in readme.splitlines() if line.startswith("python3 -m venv")] == SET_UPS
    assert readme.index(SET_UPS[1]) < readme.index("## ")
    # CI finds the commands by how their lines end.
    assert [line for line in readme.splitlines() if line.endswith("agentscope demo")] == SET_UPS[:1]
    assert [line for line in readme.splitlines() if line.endswith("pytest")] == SET_UPS[1:]


@pytest.mark.parametrize("command", sorted({command for path in EVERY for command in commands(path)}))
def test_a_command_in_the_documents_is_understood(command: str) -> None:
    arguments = shlex.split(command.replace("$KEY", "ask_key"))[1:]
    if arguments == ["--version"]:
        with pytest.raises(SystemExit, match="0"):
            build_parser().parse_args(arguments)
    else:
        assert build_parser().parse_args(arguments).command == arguments[0]


def test_every_command_and_each_of_its_options_is_in_the_guide_to_the_receiver() -> None:
    guide = text_of(GUIDE["receiver"])
    (subcommands,) = (action for action in build_parser()._actions if isinstance(action.choices, dict))
    assert isinstance(subcommands.choices, dict)
    for name, parser in subcommands.choices.items():
        (section,) = re.findall(rf"^## agentscope {name}\n(.*?)(?=^## |\Z)", guide, re.MULTILINE | re.DOTALL)
        for action in parser._actions:
            for option in set(action.option_strings) - {"-h", "--help"}:
                assert re.search(rf"{option}\b", section), f"{name} {option}"


def test_the_table_of_options_of_serve_has_their_variables_and_defaults() -> None:
    (subcommands,) = (action for action in build_parser()._actions if isinstance(action.choices, dict))
    expected = {}
    for action in subcommands.choices["serve"]._actions:
        variable = re.findall(r"AGENTSCOPE_\w+", action.help or "")
        if variable:
            default = f"{action.default >> 20}MB" if "max" in action.dest else str(action.default or "none")
            expected[action.option_strings[0]] = (variable[-1], default.removesuffix(".0"))
    rows = table(GUIDE["receiver"], "option of `serve`")
    shown = {
        plain(option): (plain(variable), plain(default).removeprefix("./")) for option, variable, default, _ in rows
    }
    assert shown["--retention"][1] == "keep all"
    assert {**shown, "--retention": expected["--retention"]} == expected


@pytest.mark.parametrize("path", [GUIDE["production"], *sorted(DEPLOYMENT.iterdir())], ids=name_of)
def test_every_variable_and_command_of_a_deployment_is_there(path: Path) -> None:
    serve = re.findall(r"`(AGENTSCOPE_\w+)`", text_of(GUIDE["receiver"]))
    known = {env_name(item.name) for item in fields(Config)} | set(serve)
    assert set(re.findall(r"AGENTSCOPE_[A-Z_]+", text_of(path))) - known == set()
    for command in re.findall(r"\bagentscope serve( --.*)", text_of(path)):
        assert build_parser().parse_args(["serve", *shlex.split(command)]).command == "serve"


def test_the_files_for_containers_are_well_formed_and_ask_the_probes_that_there_are() -> None:
    compose = yaml.safe_load(text_of(DEPLOYMENT / "compose.yaml"))
    assert set(compose["services"]) == {"receiver", "agent"}
    assert (DEPLOYMENT / compose["services"]["receiver"]["build"]["context"]).resolve() == ROOT
    assert compose["services"]["agent"]["volumes"] == ["../basic_usage.py:/agent.py:ro"]
    claim, deployment, service = yaml.safe_load_all(text_of(DEPLOYMENT / "kubernetes.yaml"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    probes = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert probes == set(PROBES)
    assert {claim["metadata"]["name"], service["metadata"]["name"]} == {"agentscope"}
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
    assert "/readyz" in text_of(DEPLOYMENT / "Dockerfile")


def test_the_table_of_metrics_has_each_of_them() -> None:
    front = Front(Keys(), Addressing())
    front.open(MemoryStore(), Limits())
    add_disk_gauges(front.metrics, ROOT)
    text = front.metrics.text().decode()
    there = set(re.findall(r"^# TYPE (agentscope_\w+)", text, re.MULTILINE))
    shown = {name for cell, *_ in table(GUIDE["production"], "metric") for name in re.findall(r"`(\w+)`", cell)}
    assert {name for name in shown if name.startswith("agentscope_")} == {
        name for name in there if not name.endswith("_created")
    }
    assert {name for name in shown if name.startswith("process_")} <= set(
        re.findall(r"^# TYPE (\w+)", text, re.MULTILINE)
    )


def test_the_table_of_options_is_the_configuration() -> None:
    documented = {
        plain(option): (plain(variable), plain(default))
        for option, variable, default, *_ in table(GUIDE["options"], "option")
    }
    expected = {}
    for item in fields(Config):
        value = getattr(Config(), item.name)
        default = "–" if value in (None, "", (), {}) else str(value)
        variable = "–" if item.name in WITHOUT_VARIABLE else env_name(item.name)
        expected[item.name] = (variable, default.lower() if isinstance(value, bool) else default)
    assert documented == expected


def test_each_option_has_a_unit_and_one_line_of_meaning() -> None:
    for option, _, _, unit, meaning in table(GUIDE["options"], "option"):
        assert unit, option
        assert meaning.endswith("."), option


def test_the_ten_options_of_the_readme_are_options_under_the_same_variables() -> None:
    every = {plain(option): variable for option, variable, *_ in table(GUIDE["options"], "option")}
    shown = {plain(option): variable for option, variable, _ in table(README, "option")}
    assert len(shown) == 10
    assert shown.items() <= every.items()


def test_the_table_of_counts_is_stats() -> None:
    assert [plain(name) for name, _ in table(GUIDE["delivery"], "field")] == [item.name for item in fields(Stats)]


def test_the_table_of_drop_reasons_has_all_of_them() -> None:
    reasons = {value for name, value in vars(drop_reasons).items() if name.isupper() and isinstance(value, str)}
    assert {plain(reason) for reason, _ in table(GUIDE["delivery"], "reason")} == reasons


@pytest.mark.parametrize(("heading", "known"), [("field of a step", STEP_FIELDS), ("field of a run", RUN_FIELDS)])
def test_the_tables_of_fields_have_each_field_that_a_caller_sets(heading: str, known: dict[str, Field]) -> None:
    shown = {plain(name) for name, _ in table(GUIDE["recording"], heading)}
    assert shown == {name for name, field in known.items() if field.given}


def test_the_guide_to_recording_names_all_step_types_and_statuses() -> None:
    (section,) = re.findall(r"## Fields\n(.*?)\n\n\|", text_of(GUIDE["recording"]), re.DOTALL)
    assert set(re.findall(r"`(\w+)`", section)) >= STEP_TYPES | RUN_STATUSES


def test_the_table_of_parameters_has_each_filter() -> None:
    filters = {field.filter for field in FIELDS.values() if field.filter}
    shown = {plain(name) for name, _ in table(GUIDE["receiver"], "parameter of `/api/runs`")}
    assert shown == filters | {"limit", "cursor", "q", "step_status"}


def test_each_kind_of_invalid_call_in_the_documents_is_in_the_code() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "agentscope").rglob("*.py"))
    kinds = [plain(kind) for kind, _ in table(GUIDE["recording"], "kind")]
    assert len(kinds) > 5
    assert [kind for kind in kinds if f'"{kind}"' not in code] == []


def test_every_test_that_a_document_names_is_there() -> None:
    named = {name for path in EVERY for name in re.findall(r"`(test_\w+)`", text_of(path))}
    there = {
        name
        for path in (ROOT / "tests").rglob("*.py")  # the suite that every store has to pass has another name
        for name in re.findall(r"def (test_\w+)\(", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 50
    assert named - there == set()


@pytest.mark.parametrize(("heading", "least"), [("fault", 20), ("how a process ends", 10)])
def test_every_line_on_faults_and_ends_names_a_test(heading: str, least: int) -> None:
    rows = table(FAULTS, heading)
    assert len(rows) >= least
    assert [row for row in rows if "`test_" not in row[-1]] == []


@pytest.mark.parametrize("path", EVERY, ids=name_of)
def test_links_to_files_and_headings_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(path)):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        assert place.exists(), target
        if anchor:
            assert anchor in headings(place), target


def test_the_sessions_in_the_documents_are_those_of_the_noxfile() -> None:
    noxfile = (ROOT / ".ci" / "noxfile.py").read_text(encoding="utf-8")
    sessions = set(re.findall(r"^@nox\.session.*\ndef (\w+)", noxfile, re.MULTILINE)) | {"tests"}
    shown = {plain(cell).partition("-3")[0] for cell, _ in table(FAULTS, "session")}
    assert shown == sessions


def test_the_markers_in_the_documents_are_those_of_the_configuration() -> None:
    markers = re.search(
        r"^markers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert markers is not None
    assert {plain(cell) for cell, _ in table(FAULTS, "marker")} == set(
        re.findall(r'^  "(\w+)', markers[1], re.MULTILINE)
    )


def test_every_benchmark_is_listed() -> None:
    listed = set(re.findall(r"`benchmarks\.(\w+)`", text_of(ROOT / "benchmarks" / "README.md")))
    there = {path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py")} | {"soak"}
    assert listed == there


def test_every_guide_is_listed() -> None:
    listed = text_of(ROOT / "examples" / "README.md")
    assert [path.name for path in GUIDES if f"({path.name})" not in listed] == []


def test_every_file_and_folder_that_the_map_names_is_there() -> None:
    """A file is named by its path, or by its name in a line that names its folder."""
    named: set[tuple[str, tuple[Path, ...]]] = set()
    for line in text_of(MAP).splitlines():
        names = re.findall(r"`([\w/.-]+(?:\.(?:py|md|toml)|/))`", line)
        names += re.findall(r"^ (\w+/[\w/]*(?:\.py)?)  ", line)
        folders = tuple(MAP.parent / name for name in names if name.endswith("/"))
        named |= {(name, (MAP.parent, ROOT, *folders)) for name in names}
    assert len(named) > 30
    assert sorted(name for name, bases in named if not any((base / name).exists() for base in bases)) == []


def test_every_folder_of_the_package_is_on_the_map() -> None:
    listed = {name for cell, _ in table(MAP, "place") for name in re.findall(r"`([\w/]+)/`", cell)}
    there = {path.name for path in MAP.parent.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert there - listed == set()


def test_the_layers_on_the_map_are_those_that_are_tested() -> None:
    shown = [set(re.findall(r"`(\w+)`", folders)) for _, folders in table(MAP, "row")]
    assert shown == [set(row) for row in ROWS]
