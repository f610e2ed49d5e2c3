import stat
from dataclasses import replace
from pathlib import Path

import pytest

from bench.fleet_turns import FleetPlan, measure_fleets
from bench.fleets import FLEETS, FleetCase, FleetFigures
from shared.errors import FederationError

CASE = replace(FLEETS["simulation"], n_devices=10, report_goal=10, n_rounds=3)


def an_interpreter(folder: Path, says: str) -> Path:
    """Return what runs in place of Flower's Python."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


async def measure(case: FleetCase, folder: Path, *contenders: str, flower: Path | None = None) -> list[FleetFigures]:
    """Measure one case; return all figures."""
    found: list[FleetFigures] = []
    plan = FleetPlan(
        cases=[case],
        contenders=[name for name in ("ours", "flower") if name in contenders],
        flower=flower,
        n_turns=1,
        folder=folder / "work",
    )
    await measure_fleets(plan, lambda case, contender, figures: found.append(figures), lambda line: None)
    return found


async def test_first_round_of_flower_does_not_count(tmp_path: Path) -> None:
    """Two rounds of ten in 4 s after the first has ended, whatever else it says; and no file is left."""
    lines = ["INFO : starting", *(f'{{"round_ended_at_s": {at}}}' for at in (7.0, 9.0, 11.0)), '{"deviation": 0.01}']
    (figures,) = await measure(CASE, tmp_path, "flower", flower=an_interpreter(tmp_path, "\n".join(lines)))
    assert (figures.n_fits, figures.seconds, figures.fits_a_second) == (20, 4.0, 5.0)
    assert list((tmp_path / "work").iterdir()) == []


async def test_flower_with_another_model_has_failed(tmp_path: Path) -> None:
    """A round that was missed shows in the model."""
    python = an_interpreter(tmp_path, '{"deviation": 1.0}')
    with pytest.raises(FederationError, match=r"wrong by 1\.0"):
        await measure(CASE, tmp_path, "flower", flower=python)


async def test_run_that_fails_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    """And its files are kept."""
    with pytest.raises(FederationError, match="nobody"):
        await measure(replace(CASE, name="nobody"), tmp_path, "ours")
    assert list((tmp_path / "work").iterdir())


async def test_contender_that_is_not_there_is_passed_over(tmp_path: Path) -> None:
    """Without Flower's environment nothing of Flower is measured."""
    assert await measure(CASE, tmp_path, "flower") == []
