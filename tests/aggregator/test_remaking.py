"""A version that is lost comes back to the bit, or not at all."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aggregator.__main__ import app
from aggregator.model_store import ModelStore, export
from tests.aggregator.killed_run import RUN, KilledRun, a_killed_run, go_on


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> KilledRun:
    """A run of two lives, killed: the updates in its version 4 are no longer there."""
    return a_killed_run(tmp_path_factory.mktemp("killed"))


@pytest.fixture(autouse=True)
def _no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without matplotlib."""
    monkeypatch.setattr("aggregator.plot.find_spec", lambda name: None)


def lose_newest(folder: Path, name: str, *, is_same: bool) -> bytes:
    """Lose version 4 of which a model was written for its user, or of another; returns its parameters."""
    store = ModelStore(folder / "versions")
    state = store.load(4)
    for other in ("best", "final"):
        (folder / f"{other}.safetensors").unlink(missing_ok=True)
    parameters = state.parameters.copy()
    if not is_same:
        parameters[0] += 1
    export(replace(state, parameters=parameters), folder / f"{name}.safetensors")
    store.path(4).unlink()
    return state.parameters.tobytes()


@pytest.mark.parametrize("name", ["best", "final"])
def test_newest_version_comes_back_from_the_same_model(tmp_path: Path, killed: KilledRun, name: str) -> None:
    """Nothing is given up, and the run goes on to its end."""
    settings, folder = killed.copy(tmp_path), tmp_path / RUN
    before = lose_newest(folder, name, is_same=True)
    done = CliRunner().invoke(app, ["repair", str(folder)])
    assert done.exit_code == 0, done.output
    assert f"from {name}.safetensors, which is the very same model" in done.output
    assert "given up" not in done.output
    assert ModelStore(folder / "versions").load(4).parameters.tobytes() == before
    assert go_on(settings, tmp_path).version == 5


def test_another_model_is_not_passed_off_as_the_newest_version(tmp_path: Path, killed: KilledRun) -> None:
    """One number differs: the run goes back to the version before, and only when told to."""
    killed.copy(tmp_path)
    lose_newest(tmp_path / RUN, "best", is_same=False)
    seen = CliRunner().invoke(app, ["repair", str(tmp_path / RUN)])
    assert seen.exit_code == 1
    assert "goes back to version 3" in seen.output


def test_run_without_any_version_names_the_model_that_is_left(tmp_path: Path, killed: KilledRun) -> None:
    """It cannot go on; what it made is not lost."""
    killed.copy(tmp_path)
    folder = tmp_path / RUN
    lose_newest(folder, "best", is_same=True)
    for path in (folder / "versions").iterdir():
        path.unlink()
    seen = CliRunner().invoke(app, ["repair", str(folder)])
    assert seen.exit_code == 2
    assert f'server.init_from = "{folder / "best.safetensors"}"' in seen.output
