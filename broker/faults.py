"""How the simulated broker misbehaves: one switch for each thing that real brokers were seen to do.

A switch is off by default, and a run with all of them off asks the dice nothing.
"""

from dataclasses import dataclass

from broker.link import PERFECT, LinkProfile
from shared.errors import InvalidState

__all__ = ["Faults"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How this broker misbehaves. Each field is a switch of its own, off by default; probabilities are per delivery.

    Args:
        link: of every transport that is made without one.
        lose_qos0: probability that a message at QoS 0 is lost.
        duplicate_qos1: probability that a message at QoS 1 arrives twice.
        lose_acknowledged: probability that a message at QoS 1 is lost although its publisher has the acknowledgement.
        reorder: probability that a message is held back, so that later ones overtake it.
        reorder_s: how long at most, in seconds.
        max_payload_bytes: what the broker announces as its limit; None: nothing.
    """

    link: LinkProfile = PERFECT
    lose_qos0: float = 0.0
    duplicate_qos1: float = 0.0
    lose_acknowledged: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 0.05
    max_payload_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        for name in ("lose_qos0", "duplicate_qos1", "lose_acknowledged", "reorder"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidState(f"{name} is a probability, not {getattr(self, name)}")

    @property
    def touch_deliveries(self) -> bool:
        """Whether a delivery has to ask the dice at all."""
        return bool(self.lose_qos0 or self.duplicate_qos1 or self.lose_acknowledged or self.reorder)
