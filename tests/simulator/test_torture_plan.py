"""Plans follow from the seed, and nothing that was promised is left out of them."""

from itertools import islice
from pathlib import Path

import pytest

from aggregator.config import Settings
from edge_client.config import EdgeSettings
from simulator.torture import SHORT
from simulator.torture_plan import (
    Act,
    Kind,
    LifePlan,
    RunPlan,
    Scale,
    Waits,
    aggregator_settings,
    device_settings,
    lives,
    plan_run,
)
from simulator.torture_steps import Step
from simulator.torture_task import task

SCALE = Scale()


def _first(plan: RunPlan, count: int) -> list[LifePlan]:
    return list(islice(lives(plan, SCALE), count))


def test_plan_is_a_function_of_seed_and_index() -> None:
    """The same names give the same run, others another one."""
    assert plan_run(1, 5, SCALE) == plan_run(1, 5, SCALE)
    assert _first(plan_run(1, 5, SCALE), 50) == _first(plan_run(1, 5, SCALE), 50)
    assert _first(plan_run(1, 5, SCALE), 50) != _first(plan_run(2, 5, SCALE), 50)


def test_every_kind_of_run_comes_soon() -> None:
    """The short form has three runs."""
    assert {plan_run(1, index, SHORT).kind for index in range(3)} == set(Kind)


def test_every_mode_comes_soon() -> None:
    """By the seed, so that a torture of a few runs has more than one; settings say what it is."""
    plans = [plan_run(1, index, SCALE) for index in range(12)]
    assert {plan.waits for plan in plans} == set(Waits)
    for plan in plans:
        knobs = Settings.model_validate(
            aggregator_settings(plan, SCALE, url="mqtt://127.0.0.1:1", folder=Path("runs"), inline_bytes=0)
        ).round
        assert (knobs.outstanding is not None) is (plan.waits is Waits.ASYNC)
        assert (knobs.max_staleness == 0) is (plan.waits is Waits.SYNC)


def test_every_act_and_step_comes_within_a_few_hundred_lives() -> None:
    """A thousand kills reach each of them many times."""
    found = [life for index in range(4) for life in _first(plan_run(1, index, SCALE), 100)]
    assert {life.act for life in found} == set(Act)
    assert {life.step for life in found} == {*Step, None}
    assert {off for life in found for _, off in life.jumps} == {-86_400.0, 0.0, 86_400.0}
    assert {life.inline_bytes for life in found} == {0, 32_768}
    assert {life.act for life in found if life.has_bad_link} == {Act.KILL, Act.STEP}


def test_steps_of_chunks_are_planned_only_where_updates_come_in_chunks() -> None:
    """A step that cannot come would be a kill at a random instant under another name."""
    chunked = {Step.PART_UNSYNCED, Step.BEFORE_RENAME, Step.BEFORE_ACCEPT}
    for index in range(4):
        for life in _first(plan_run(1, index, SCALE), 100):
            assert (life.step is not None) is (life.act is Act.STEP)
            assert life.step not in chunked or life.inline_bytes == 0


def test_disk_is_filled_only_where_it_is_small() -> None:
    """Nobody's own disk is filled."""
    for index in range(8):
        plan = plan_run(1, index, SCALE)
        has_filled = any(life.act is Act.FILL_DISK for life in _first(plan, 50))
        assert has_filled is (plan.kind is Kind.SMALL_DISK)


def test_links_flap_every_five_seconds_trickle_and_swallow() -> None:
    """Each run has devices with 2 kB/s, breaks every 5 s, and a black hole."""
    profiles = plan_run(1, 0, SCALE).links.values()
    assert any(link.outages is not None and link.outages.every_s == 5 for link in profiles)
    assert any(link.resets_every_s == 5 for link in profiles)
    assert any(link.up_bytes_per_s == 2000 for link in profiles)
    assert any(link.stalls is not None for link in profiles)


@pytest.mark.parametrize("index", range(3))
def test_settings_are_those_of_the_services(index: int, tmp_path: Path) -> None:
    """The real settings take them; small updates travel inline, the others in at least three chunks."""
    plan, url = plan_run(1, index, SCALE), "mqtt://127.0.0.1:1883"
    settings = Settings.model_validate(aggregator_settings(plan, SCALE, url=url, folder=tmp_path, inline_bytes=0))
    assert settings.round.report_goal < SCALE.population
    assert EdgeSettings.model_validate(device_settings(url=url, folder=tmp_path)).fleet == settings.fleet
    n_bytes = 4 * plan.n_params
    assert n_bytes <= 64 or n_bytes >= 3 * settings.transfer.chunk_bytes
    assert settings.task == "simulator.torture_task:task"
    assert task.initial_parameters(1).parameters["sum"].sum() == 0
