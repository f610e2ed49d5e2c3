"""A schedule of the user's own."""

from pathlib import Path

import pytest

from aggregator.schedule_loading import load_rates, load_schedule
from aggregator.schedule_settings import ScheduleSettings
from shared.errors import ConfigError
from tests.aggregator.builders import some_settings

MODULE = """
class Harmonic:
    def factor(self, version):
        return 1 / (1 + version)

class Never:
    def factor(self, version):
        return 0

schedule = Harmonic()
never = Never()
nothing = object()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module in it, which is importable only within a test."""
    (tmp_path / "harmonic_schedule.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    return tmp_path


@pytest.mark.parametrize("name", ["schedule", "Harmonic"])
def test_schedule_beside_the_settings_is_found(folder: Path, name: str) -> None:
    """An object, or a class that is called for one."""
    found = load_schedule(ScheduleSettings(name=f"harmonic_schedule:{name}", warm_up=1), folder)
    assert [found.factor(version) for version in range(4)] == [0.5, 1.0, 0.5, 1 / 3]


def test_what_is_no_schedule_is_refused(folder: Path) -> None:
    """At the start, with what is missing."""
    with pytest.raises(ConfigError, match="schedule 'harmonic_schedule:nothing' is of type object, without factor"):
        load_schedule(ScheduleSettings(name="harmonic_schedule:nothing"), folder)


@pytest.mark.parametrize("table", ["training", "server.optimizer"])
def test_schedule_without_a_rate_for_the_first_version_is_refused_at_the_start(folder: Path, table: str) -> None:
    """It says where it stands, and what it gave."""
    schedule = {"schedule": {"name": "harmonic_schedule:never"}}
    tables = {"training": schedule} if table == "training" else {"server": {"optimizer": schedule}}
    with pytest.raises(ConfigError, match=r"(?s)'harmonic_schedule:never' gives the factor 0.0 at version 0") as caught:
        load_rates(some_settings(**tables), folder)
    assert caught.value.where == f"{table}.schedule"


def test_rates_have_a_schedule_each(folder: Path) -> None:
    """That of the devices by a schedule of one's own, that of the server by one of ours."""
    settings = some_settings(
        training={"learning_rate": 0.6, "schedule": {"name": "harmonic_schedule:schedule"}},
        server={"optimizer": {"learning_rate": 2.0, "schedule": {"name": "exponential", "factor": 0.5}}},
    )
    rates = load_rates(settings, folder)
    assert [rates.client(version) for version in (0, 1, 2)] == pytest.approx([0.6, 0.3, 0.2])
    assert [rates.step(version) for version in (0, 1, 2)] == [2.0, 1.0, 0.5]
