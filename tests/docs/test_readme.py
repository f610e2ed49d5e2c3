"""README.md is true: its tasks learn, its test passes, its tables and names are those of the code."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aggregator.__main__ import app as aggregator
from bench.__main__ import app as bench
from broker.__main__ import app as broker
from edge_client.__main__ import app as edge_client
from shared.errors import AlreadyServed, ConfigError, CredentialsRefused
from simulator.__main__ import app as simulator
from simulator.summary import Summary
from tests.docs.generated import ROOT
from tests.docs.readme import README, command, commands, write_walkthrough

APPS = {"aggregator": aggregator, "bench": bench, "broker": broker, "edge_client": edge_client, "simulator": simulator}

# What `tests/docs/test_readme_for_real.py` does with a real broker.
TRIED_FOR_REAL = (
    *("python -m broker", "python -m edge_client", "mosquitto_sub"),
    *(
        f"python -m aggregator {word}"
        for word in ("check", "run", "watch", "pause", "resume", "stop", "export", "repair", "explain")
    ),
)
TRIED_HERE = ("pytest",)
NOT_TRIED = {
    "make": "takes minutes; that there is such a target is tested here",
    "docker compose": "needs a Docker engine; `make compose` is its test",
    "python3 -m venv": "is Python's own",
    ". .venv/bin/activate": "is Python's own",
    "pip install": "needs an index; that there is such an extra is tested here",
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("kind", "missing"), [("torch", ("amqtt",)), ("numpy", ("amqtt", "torch"))])
def test_own_task_passes_its_test_with_no_broker(kind: str, missing: tuple[str, ...], tmp_path: Path) -> None:
    """A reader's task and a reader's test: three rounds in a process, without a broker, and without torch for NumPy."""
    write_walkthrough(tmp_path, kind)
    absent = tmp_path / "absent"
    absent.mkdir()
    for name in missing:
        (absent / f"{name}.py").write_text(f"raise ModuleNotFoundError('there is no {name} here', name='{name}')\n")
    ended = subprocess.run(
        [sys.executable, "-m", *command("pytest", "test_my_task.py"), "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={"PATH": str(absent), "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(absent), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout


def test_the_test_of_an_own_task_is_short() -> None:
    """What a user writes to try a task fits on a screen: some fifteen lines behind the `def`."""
    body = README.partition("async def test_three_devices_learn")[2].partition("```")[0]
    assert len(body.strip().splitlines()[1:]) <= 18


def test_every_command_is_tried_or_says_why_not() -> None:
    """A command that is new in the README is tried somewhere, or excused here."""
    known = (*TRIED_FOR_REAL, *TRIED_HERE, *NOT_TRIED)
    assert [line for line in map(" ".join, commands()) if not line.startswith(known)] == []


def test_every_make_target_exists() -> None:
    """Whatever the docs tell to make can be made."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    texts = README + (ROOT / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", texts, flags=re.MULTILINE)) <= targets


def test_every_extra_exists() -> None:
    """The table of extras names all that there are, and no others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"^\| `\[(\w+)\]`", README, flags=re.MULTILINE)
    assert sorted(named) == sorted(project["optional-dependencies"])
    assert set(re.findall(r"pip install '\.\[(\w+)\]'", README)) <= set(named)


@pytest.mark.parametrize("line", sorted(set(re.findall(r"python -m ((?:\w+)(?: [a-z]+(?:-[a-z]+)*\b)?)", README))))
def test_every_program_and_subcommand_exists(line: str) -> None:
    """`python -m` and what follows is a program of ours that can explain itself."""
    name, *subcommand = line.split()
    if name != "venv":
        assert CliRunner().invoke(APPS[name], [*subcommand, "--help"]).exit_code == 0


def test_exit_codes_are_those_of_the_errors() -> None:
    """The table says what a program ends with."""
    codes = dict(re.findall(r"^\| ([\d, ]+) \| (.+) \|$", README.partition("| exit code |")[2], flags=re.MULTILINE))
    assert "operator" in codes[str(ConfigError.exit_code)]
    assert "credentials" in codes[str(CredentialsRefused.exit_code)]
    assert "another process" in codes[str(AlreadyServed.exit_code)]
    assert set(codes) == {"0", "1", "2", "3", "4", "130, 143"}


def test_sample_of_the_demo_has_the_lines_of_a_summary() -> None:
    """What the README shows of `make demo` is what a rehearsal prints."""
    sample = README.partition("<!-- sample: make demo -->")[2].partition("<!-- end of sample -->")[0]
    summary = Summary(
        run="demo",
        metric="accuracy",
        value=0.9,
        n_committed=1,
        n_abandoned=0,
        seconds=1.0,
        counts={},
        bytes_up=0,
        bytes_down=0,
        killed=(),
        model=None,
        history=Path("history.jsonl"),
        plot=None,
    )
    assert [line for line in summary.lines() if f"\n{line.partition(':')[0]}:" not in sample] == []
