"""What an attacking device sends in place of its update, for rehearsals of the rules that withstand it.

An attack sees what the device would have sent honestly, and what all attackers of the fleet would have: they know each
other, and nothing of the honest devices. Pure.

Not here: how a device comes to send it (`attackers.py`).
"""

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["FLIP_LABELS", "AttackSettings", "needs_colluders", "poisoned"]

FLIP_LABELS = "flip_labels"
"""In `Work.options` of a device that poisons its data: the task exchanges label y of n for n − 1 − y."""

Vector = NDArray[np.float32]
_STRENGTH = {"sign-flip": 1.0, "inner-product": 2.0, "little": 1.5, "gaussian": 10.0}


class AttackSettings(BaseModel):
    """What the devices of a group send."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["sign-flip", "inner-product", "little", "label-flip", "gaussian", "nan"] = Field(
        description="sign-flip: its own update backwards; inner-product: the attackers' mean backwards; little: just "
        "inside their spread; label-flip: trained on wrong labels; gaussian: noise; nan: no numbers"
    )
    strength: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="sign-flip, inner-product: factor (1, 2); little: standard deviations (1.5); gaussian: times the "
        "root mean square of its own update (10)",
    )

    @model_validator(mode="after")
    def _has_a_strength(self) -> Self:
        if self.strength is not None and self.kind not in _STRENGTH:
            raise ValueError(f"strength: {self.kind} has none, leave it out")
        return self


def needs_colluders(attack: AttackSettings) -> bool:
    """Whether an attack is made of what all attackers would have sent."""
    return attack.kind in ("inner-product", "little")


def poisoned(attack: AttackSettings, own: Vector, colluders: Sequence[Vector], rng: np.random.Generator) -> Vector:
    """Return what is sent: (n_params,) float32.

    * sign-flip: −s · own.
    * inner-product: −ε · mean of the attackers' updates; Xie, Koyejo, Gupta, "Fall of Empires: Breaking
      Byzantine-tolerant SGD by Inner Product Manipulation" (UAI 2019, arXiv 1903.03936), §4.
    * little: mean − z · standard deviation of each coordinate of the attackers' updates; Baruch, Baruch, Goldberg, "A
      Little Is Enough: Circumventing Defenses For Distributed Learning" (NeurIPS 2019, arXiv 1902.06156), Algorithm 3.
      Differs: there z follows from the numbers of devices and attackers, so that more than half of all updates are
      farther from the mean; 1.5 is that of about 24 attackers in 50. Fewer are meant to stay below a lower one.
    * gaussian: noise, s times as long as the own update.
    * label-flip, nan: the own update, for the harm is done before, or afterwards.

    Args:
        attack: which.
        own: what the device would have sent.
        colluders: what every attacker would have, in the order of the fleet.
        rng: of the noise.
    """
    strength = attack.strength if attack.strength is not None else _STRENGTH.get(attack.kind, 1.0)
    match attack.kind:
        case "sign-flip":
            sent = -strength * own.astype(np.float64)
        case "inner-product":
            sent = -strength * np.asarray(colluders, dtype=np.float64).mean(axis=0)
        case "little":
            together = np.asarray(colluders, dtype=np.float64)
            sent = together.mean(axis=0) - strength * together.std(axis=0)
        case "gaussian":
            size = float(np.sqrt(np.mean(own.astype(np.float64) ** 2)))
            sent = strength * size * rng.standard_normal(len(own))
        case _:
            return own
    return sent.astype(np.float32)
