"""docs/learning.md says what the code does: names, defaults, and an optimizer that runs as it stands there."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from aggregator.config import Settings
from aggregator.optimizer_settings import BUILT_IN_OPTIMIZERS
from aggregator.schedule_settings import BUILT_IN_SCHEDULES
from aggregator.server_optimizers import advance
from shared.parameters import ParameterSpec
from shared.task import Initial

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "learning.md").read_text()
ROBUST = (ROOT / "docs/robust.md").read_text()
RULES = {
    "FedMedian": "median",
    "FedTrimmedAvg": "trimmed-mean",
    "Krum": "krum",
    "MultiKrum": "multi-krum",
    "Bulyan": "bulyan",
}
"""Flower's strategies that stand on the page about rules, by our names."""
SIGNS = {"η": "learning_rate", "β": "momentum"}


def test_table_of_optimizers_has_every_one_with_its_defaults() -> None:
    """Name and numbers are those of the settings; yogi's are adam's."""
    found: dict[str, dict[str, float]] = {}
    for row in ("sgd", "fedavgm", "adagrad", "adam", "yogi"):
        cells = next(line for line in PAGE.splitlines() if line.startswith(f"| `{row}` |")).split(" | ")
        numbers = re.findall(r"(?:`(\w+)`|(η))(?: β)? = ([\d.]+)", cells[3])
        found[row] = {name or SIGNS[sign]: float(value) for name, sign, value in numbers}
    assert found.pop("yogi") == {}
    assert found | {"yogi": found["adam"]} == BUILT_IN_OPTIMIZERS


def test_table_of_schedules_has_every_one_with_its_keys() -> None:
    """Keys and defaults are those of the settings."""
    for name, keys in BUILT_IN_SCHEDULES.items():
        cell = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")).split(" | ")[2]
        found: dict[str, str] = dict(re.findall(r"`(\w+)`(?: \w)?(?: = ([\d.]+))?", cell))
        assert {key: float(value) if value else None for key, value in found.items()} == keys


def test_settings_of_the_page_are_settings() -> None:
    """Each listing in TOML is taken."""
    listings = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert listings
    for listing in listings:
        Settings.model_validate(
            {"task": "a:b", "round": {"report_goal": 1}, "stop": {"rounds": 1}, **tomllib.loads(listing)}
        )


def test_figures_beside_flower_are_those_of_the_saved_result() -> None:
    """Each row is as it was measured; of q-FedAvg, the worst of all q."""
    (name,) = set(re.findall(r"\(\.\./(bench/results/[\w-]+)\.md\)", PAGE))
    measured = json.loads((ROOT / f"{name}.json").read_text())["strategies"]
    apart: dict[str, list[float]] = {}
    for each in measured:
        strategy = each["name"].partition(",")[0]
        before = apart.get(strategy, [0.0, 0.0])
        found = [each["apart"]["as it is"], each["apart"]["departing"]]
        apart[strategy] = [max(pair) for pair in zip(before, found, strict=True)]
    assert max(departing for _, departing in apart.values()) <= 1e-6
    for strategy, name in RULES.items():
        (cell,) = re.findall(rf"^\| `{name}` \| ([\d.e-]+) \|", ROBUST, flags=re.MULTILINE)
        assert float(cell) == pytest.approx(apart.pop(strategy)[1], rel=0.05), strategy
    for strategy, figures in apart.items():
        cells = re.findall(
            rf"^\| {strategy}(?:, [^|]*)? \| .* \| ([\d.e-]+) \| ([\d.e-]+) \|$", PAGE, flags=re.MULTILINE
        )
        assert [float(cell) for cell in cells[0]] == pytest.approx(figures, rel=0.05), strategy


def test_own_optimizer_of_the_page_steps() -> None:
    """By the rate, in the direction of the delta; the buffer takes the mean."""
    listing = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[0]
    names: dict[str, object] = {}
    exec(listing, names)  # our own page
    arrays = {"w": np.zeros(2, np.float32), "running_var": np.ones(1, np.float32)}
    spec = ParameterSpec.of(Initial(arrays, buffers=frozenset({"running_var"})))
    optimizer = names["optimizer"]
    moved, saved = advance("it", optimizer, {}, spec.flatten(arrays), np.array([5.0, -7.0, 0.5]), spec, 0.1)  # type: ignore[arg-type]
    assert moved == pytest.approx([0.1, -0.1, 1.5])
    assert saved["step/it/m"][:2] == pytest.approx([0.5, -0.7])
