"""docs/learners.md is true: its listings are run as they stand, and its commands in their order."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from aggregator.__main__ import app as aggregator
from shared.parameters import ParameterSpec, delta_of
from shared.sklearn_task import SklearnTask
from shared.statistics_task import CategoryStatistics, NumberStatistics, StatisticsTask
from shared.task import Client, ClientId
from simulator.__main__ import app as simulator
from tests.docs.generated import ROOT
from tests.task_work import some_work

PAGE = (ROOT / "docs" / "learners.md").read_text()
APPS = {"aggregator": aggregator, "simulator": simulator}


def listings(language: str) -> list[str]:
    """Return the page's listings of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def done(listing: str) -> dict[str, Any]:
    """Run a Python listing; return its names."""
    names: dict[str, Any] = {}
    exec(compile(listing, "docs/learners.md", "exec"), names)
    return names


@pytest.mark.timeout(120)
def test_commands_and_what_follows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each ends well, in a folder that has the examples; the last listing reads what was learned."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    printed = ""
    for line in "".join(listings("sh")).splitlines():
        python, _, program, *words = shlex.split(line)
        assert python == "python"
        result = CliRunner().invoke(APPS[program], words)
        assert result.exit_code == 0, result.output
        printed = result.stdout
    assert json.loads(printed)["statistics"]["n_devices"] == 10
    (run,) = (tmp_path / "runs").glob("linear-sklearn-*")
    shutil.copy(run / "final.safetensors", "final.safetensors")
    done(next(listing for listing in listings("python") if "load_file" in listing))
    assert float(capsys.readouterr().out) == json.loads((run / "report.json").read_text())["metric"]["last"]


def test_listing_of_a_task_is_one(tmp_path: Path) -> None:
    """It reads a device's CSV and learns from it."""
    (tmp_path / "a.csv").write_text("0,1,1\n2,1,0\n0,3,1\n")
    task = done(next(listing for listing in listings("python") if "loadtxt" in listing))["task"]
    assert isinstance(task, SklearnTask)
    x, y = task._train_data(Client(id=ClientId("a"), data=tmp_path / "a.csv"))
    assert (x.shape, list(y)) == ((3, 2), [1, 0, 1])
    assert np.isfinite(task.initial_parameters(1).parameters["coef_"]).all()


def test_listing_of_statistics_is_a_task_too(tmp_path: Path) -> None:
    """It reads a CSV with a header; empty cells are missing."""
    (tmp_path / "a.csv").write_text("age,ward,name\n31,surgery,Ada\n,maternity,Eve\n17,,Kim\n")
    task = done(next(listing for listing in listings("python") if "csv" in listing))["task"]
    assert isinstance(task, StatisticsTask)
    spec = ParameterSpec.of(task.initial_parameters(1))
    vector = spec.flatten(task.initial_parameters(1).parameters)
    client = Client(id=ClientId("a"), data=tmp_path / "a.csv")
    work = some_work()
    trained = task.train(spec.unflatten(vector), work, client)
    found = task.statistics(spec.unflatten(delta_of(trained, vector, spec)), version=1, n_devices=5)
    age, ward = found.columns["age"], found.columns["ward"]
    assert isinstance(age, NumberStatistics)
    assert isinstance(ward, CategoryStatistics)
    assert (found.rows, age.count, age.missing, age.mean) == (5 * 3, 5 * 2, 5, 24)
    assert (dict(ward.counts), ward.other, ward.missing) == ({"surgery": 5, "maternity": 5}, 0, 5)
