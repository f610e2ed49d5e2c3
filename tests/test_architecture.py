"""The house rules of docs/architecture.md, read from the source with `ast`; no test here looks at behaviour."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Which packages of ours a package may import besides itself. Imports point down only.
FLOORS = {
    "shared": frozenset[str](),
    "broker": frozenset({"shared"}),
    "edge_client": frozenset({"shared", "broker"}),
    "aggregator": frozenset({"shared", "broker"}),
    "simulator": frozenset({"shared", "broker", "edge_client", "aggregator"}),
    "examples": frozenset({"shared"}),
}
PACKAGES = tuple(package for package in FLOORS if package != "examples")

# The broker floor knows nothing of learning.
SHARED_ROOMS_OF_BROKER = frozenset({"errors", "logs", "config", "topics"})

# Whoever checks the journal does not believe its own code; whoever kills it, or its disk, listens to its statements.
HARM = ("simulator/lossy_disk.py", "simulator/torture_checks.py", "simulator/torture_steps.py")
# Third parties that stay behind one door.
DOORS = {
    "aiomqtt": frozenset({"broker/mqtt.py"}),
    "paho": frozenset({"broker/mqtt.py"}),
    "amqtt": frozenset({"broker/server/embedded.py"}),
    "torch": frozenset(str(path.relative_to(ROOT)) for path in (ROOT / "shared" / "torch_task").glob("*.py")),
    "sklearn": frozenset({"shared/sklearn_task.py"}),
    "zstandard": frozenset({"shared/codecs/lossless.py"}),
    "sqlite3": frozenset({"aggregator/journal_file.py", "aggregator/journal_scan.py", *HARM}),
}

# Modules that decide: time and randomness are their arguments, and they wait for nothing.
PURE = {
    "shared": {
        *("algorithms", "chunking", "initial_loss", "messages", "parameters", "topics", "wire", "wire_fields"),
        *("choice", "codec", "floats", "int8", "one_bit", "rotation"),  # of codecs
        *("exact_buffers", "feedback", "lossless", "top_k"),
    },
    "broker": {"config", "faults", "link", "reconnect", "transport"},
    "aggregator": {
        *("explained_causes", "explained_rounds", "explained_tables", "explanation", "fairness", "lease_accounts"),
        *("admission", "announcements", "commands", "config", "disk_budget", "drawing", "events"),
        *("algorithm_limits", "codec_choice", "device_states", "server_algorithm"),
        *("federated_evaluation", "fleet_table", "fleet_view", "invitations", "journal_rows", "lease_timelines"),
        *("leases", "modes", "oort", "pausing", "phases", "population", "quotas", "records", "recovery", "reports"),
        *("clipping", "cohort", "geometric_median", "krum", "mean", "median", "mixing", "qfedavg"),  # of rules
        "rule",
        *("rule_limits", "rule_settings"),
        *("adaptive", "momentum", "optimizer"),  # of server_optimizers
        *("learning_rates", "learning_settings", "optimizer_settings", "schedule_settings", "schedules"),
        *("reweighting", "section"),
        *("round_clock", "round_endings", "round_machine", "selection"),
        *("settings_change", "staleness", "statistics_table", "stopping", "summing_up"),
        *("tally", "track_records", "uploads"),
    },
    "edge_client": {
        *("advice", "config", "eligibility", "events", "fetch_window", "final_leases", "finished_runs"),
        *("held_reports", "participant_machine", "phases", "presence", "spec_question", "training_line", "upload"),
    },
    "simulator": {
        "attacks",
        "availability",
        "curves",
        "device_classes",
        "faults",
        "links",
        "scenario",
        "torture_plan",
        "traces",
        "training_time",
        "waiting",
    },
}
# `random.Random` alone may be imported: a generator that somebody else seeded is an argument like any other.
IMPURE_IMPORTS = {
    *("asyncio", "os", "secrets", "shutil", "socket", "sqlite3", "subprocess", "tempfile", "threading", "time", "uuid"),
}
RANDOM_ALLOWED = {"random", "random.Random"}

NAMES_THAT_SAY_NOTHING = {"base", "common", "core", "helper", "helpers", "manager", "misc", "util", "utils"}
MAX_LINES = 400


def python_files(*folders: str) -> list[str]:
    """Paths of our Python files under `folders`, relative to the root."""
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: str) -> Iterator[str]:
    """Every dotted name that a file imports; `from a.b import c` is a.b.c."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} line {node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def random_calls(path: str) -> Iterator[str]:
    """Every `random.x` that a file uses, as a dotted name."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(value=ast.Name(id="random"), attr=attribute):
                yield f"random.{attribute}"


def top(name: str) -> str:
    """The first segment of a dotted name."""
    return name.partition(".")[0]


OURS = python_files(*FLOORS)
EVERYTHING = python_files(*FLOORS, "tests", "bench", "results")


def test_imports_reads_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader that the other tests rely on sees plain, aliased, from and nested imports."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "x.py").write_text("import a.b as c\nfrom d.e import f, g as h\ndef i():\n    import j\n")
    assert sorted(imports("x.py")) == ["a.b", "d.e.f", "d.e.g", "j"]


@pytest.mark.parametrize("path", OURS)
def test_imports_point_down_only(path: str) -> None:
    """A package imports of ours only what lies on the floors below it, so the two sides never meet."""
    package = path.partition("/")[0]
    above = {name for name in imports(path) if top(name) in FLOORS.keys() - FLOORS[package] - {package}}
    assert not above
    assert not {name for name in imports(path) if top(name) in {"tests", "bench", "results"}}


@pytest.mark.parametrize("path", python_files("broker"))
def test_broker_knows_nothing_of_learning(path: str) -> None:
    """The broker floor uses errors, logs, config and topics of `shared`, and nothing else."""
    rooms = {name.split(".")[1] for name in imports(path) if top(name) == "shared"}
    assert rooms <= SHARED_ROOMS_OF_BROKER


@pytest.mark.parametrize("path", python_files(*PACKAGES))
def test_third_parties_stay_behind_their_door(path: str) -> None:
    """MQTT libraries, torch, scikit-learn and SQLite can each be replaced by changing one file."""
    assert not {name for name in imports(path) if path not in DOORS.get(top(name), {path})}


@pytest.mark.parametrize("path", [path for path in OURS if Path(path).stem in PURE.get(path.partition("/")[0], ())])
def test_pure_modules_have_no_clock_thread_or_file(path: str) -> None:
    """What decides does not wait: no import brings a pure module I/O, a clock, a thread or randomness of its own."""
    assert not {name for name in imports(path) if top(name) in IMPURE_IMPORTS}
    assert {name for name in [*imports(path), *random_calls(path)] if top(name) == "random"} <= RANDOM_ALLOWED


@pytest.mark.parametrize("path", EVERYTHING)
def test_file_is_named_for_what_it_holds_and_short(path: str) -> None:
    """A file is named by a noun of the field and can be read in one sitting."""
    assert not set(Path(path).stem.split("_")) & NAMES_THAT_SAY_NOTHING
    n_lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    assert n_lines <= MAX_LINES


def test_packages_have_init_and_test_folders_have_none() -> None:
    """`import broker` finds the package, never tests/broker."""
    folders = {folder.parent for folder in map(Path, python_files(*PACKAGES))}
    assert [str(folder) for folder in sorted(folders) if not (ROOT / folder / "__init__.py").exists()] == []
    assert [path for path in python_files("tests") if path.endswith("__init__.py")] == []


@pytest.mark.parametrize(
    "path", [path for path in EVERYTHING if path.startswith("tests/") and Path(path).name.startswith("test_")]
)
def test_test_modules_mirror_modules(path: str) -> None:
    """tests/a/test_b.py tests a/b.py; test_b_<subject>.py too, where one file would be too long."""
    folder, subject = Path(path).parent.relative_to("tests"), Path(path).stem.removeprefix("test_")
    if folder.parts[:1] and folder.parts[0] in FLOORS:
        places = (ROOT / folder, ROOT / "tests" / folder)  # the latter for suites such as contract.py
        modules = {entry.stem.strip("_") for place in places for entry in place.iterdir()}
        assert any(subject == module or subject.startswith(f"{module}_") for module in modules)


@pytest.mark.parametrize("package", ["aggregator", "edge_client"])
def test_neither_side_loads_torch(package: str) -> None:
    """A Raspberry Pi with a NumPy task never needs torch, nor waits for rich and matplotlib to be imported."""
    code = (
        "import importlib, pkgutil, sys\n"
        f"import {package}\n"
        f"for module in pkgutil.walk_packages({package}.__path__, '{package}.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "print(*sorted({'torch', 'matplotlib', 'sklearn', 'amqtt'} & sys.modules.keys()))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (loaded.stderr, loaded.stdout.split()) == ("", [])
