from pathlib import Path

import pytest

from aggregator.config import Settings
from shared.config import load_settings
from simulator.scenario import Scenario, dotted

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "examples" / "studies").glob("*.toml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_can_be_read_and_its_run_makes_settings(path: Path) -> None:
    """Every scenario and every setting in it is a valid one, and `make studies` runs it."""
    scenario = load_settings(Scenario, path)
    settings = load_settings(Settings, None, dotted(scenario.run), with_environment=False)
    assert settings.task.startswith("examples.linear_digits:")
    assert len(scenario.plan()) in (50, 100, 200)
    assert path.name in (ROOT / "scripts" / "studies.sh").read_text()
