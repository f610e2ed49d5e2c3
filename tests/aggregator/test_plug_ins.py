"""What the settings name is loaded in one place."""

from pathlib import Path
from typing import Any

import pytest

from aggregator.plug_ins import load_plug_ins
from aggregator.selection import Uniform
from aggregator.server_optimizers import Yogi
from shared.errors import ConfigError
from tests.aggregator.builders import some_settings


def test_what_the_settings_name_is_there() -> None:
    """Ours, by name."""
    found = load_plug_ins(some_settings(server={"optimizer": {"name": "yogi"}}), Path("nowhere"))
    assert isinstance(found.rule, Uniform)
    assert isinstance(found.optimizer, Yogi)


@pytest.mark.parametrize(
    ("tables", "what"),
    [
        ({"selection": {"rule": "no_such_module:it"}}, "selection rule"),
        ({"server": {"optimizer": {"name": "no_such_module:it"}}}, "server optimizer"),
    ],
)
def test_what_cannot_be_loaded_is_named(tables: dict[str, Any], what: str) -> None:
    """Before anything starts."""
    with pytest.raises(ConfigError, match=f"{what} 'no_such_module:it'"):
        load_plug_ins(some_settings(**tables), Path("nowhere"))


def test_rule_of_ones_own_is_asked_whether_a_rounds_reports_are_enough(tmp_path: Path) -> None:
    """Before any device works, and not after a round of training."""
    (tmp_path / "picky_rules.py").write_text(
        "class Picky:\n"
        "    def combine(self, cohort):\n"
        "        return cohort.weights\n"
        "    def check(self, n_updates):\n"
        "        if n_updates < 100:\n"
        "            raise ValueError('I ask for 100')\n"
        "rule = Picky()\n"
    )
    with pytest.raises(ConfigError, match=r"refuses \d+ updates: ValueError: I ask for 100"):
        load_plug_ins(some_settings(server={"rule": "picky_rules:rule"}), tmp_path)
