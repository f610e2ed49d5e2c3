from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from simulator.scenario import Scenario
from simulator.scenarios.attacks import AttackSettings, poisoned

RNG = np.random.default_rng(3)
OWN = RNG.standard_normal(1000).astype(np.float32)
COLLUDERS = RNG.standard_normal((4, 1000)).astype(np.float32) + 1


def sent(kind: str, strength: float | None = None) -> np.ndarray:
    """Return what an attack makes of the same updates."""
    attack = AttackSettings.model_validate({"kind": kind, "strength": strength})
    return poisoned(attack, OWN, list(COLLUDERS), np.random.default_rng(1))


def test_sign_flip_is_the_own_update_backwards() -> None:
    """As long as it was, or by a factor."""
    assert (sent("sign-flip") == -OWN).all()
    assert sent("sign-flip", 3.0) == pytest.approx(-3 * OWN)


def test_inner_product_points_away_from_the_attackers_mean() -> None:
    """By ε; the inner product with the honest direction is negative."""
    assert sent("inner-product", 0.5) == pytest.approx(-0.5 * COLLUDERS.mean(axis=0), abs=1e-6)


def test_a_little_is_enough_stays_within_the_spread() -> None:
    """Each coordinate is z standard deviations below the mean."""
    found = sent("little", 1.0)
    assert found == pytest.approx(COLLUDERS.mean(axis=0) - COLLUDERS.std(axis=0), abs=1e-6)
    assert (found >= COLLUDERS.min(axis=0) - COLLUDERS.std(axis=0)).all()


def test_noise_is_as_long_as_it_is_strong() -> None:
    """Its root mean square is that of the own update, by the factor; and it is another for another seed."""
    ratio = np.sqrt(np.mean(sent("gaussian", 10.0) ** 2) / np.mean(OWN**2))
    assert ratio == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("kind", ["label-flip", "nan"])
def test_a_strength_without_a_meaning_is_refused(kind: str) -> None:
    """Nobody believes that it has an effect."""
    with pytest.raises(ValidationError, match="strength"):
        AttackSettings.model_validate({"kind": kind, "strength": 2.0})


def test_little_is_refused_where_one_attacks_alone() -> None:
    """Without a spread it would send what it has learned, and pass for withstood."""
    tables: dict[str, Any] = {"run": {"task": "t:t"}, "devices": {"good": {"count": 3}}}
    alone = {**tables["devices"], "bad": {"count": 1, "attack": {"kind": "little"}}}
    with pytest.raises(ValidationError, match="two attackers or more"):
        Scenario.model_validate({**tables, "devices": alone})
    several = {**alone, "worse": {"count": 1, "attack": {"kind": "little"}}}
    assert len(Scenario.model_validate({**tables, "devices": several}).devices) == 3
