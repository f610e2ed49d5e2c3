"""What a fleet spends, in seconds of its devices: switched on, training, with the radio on.

The radio is on while a link carries a device's bytes: bytes over rate, each way; a link without a rate takes no time.
"""

from collections import defaultdict
from dataclasses import dataclass

from broker.link import LinkProfile

__all__ = ["Ledger", "Spent", "radio_s"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Of one device, a class or a fleet so far.

    Args:
        on_s: seconds switched on.
        training_s: seconds of training and evaluating, for nothing or not.
        radio_s: seconds with bytes on its link.
        bytes_up: sent, repeats included.
        bytes_down: received, likewise.
    """

    on_s: float = 0.0
    training_s: float = 0.0
    radio_s: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        """Return the sum of two."""
        return Spent(
            on_s=self.on_s + other.on_s,
            training_s=self.training_s + other.training_s,
            radio_s=self.radio_s + other.radio_s,
            bytes_up=self.bytes_up + other.bytes_up,
            bytes_down=self.bytes_down + other.bytes_down,
        )

    @property
    def idle_s(self) -> float:
        """Seconds switched on, and neither training nor with bytes on the link."""
        return max(0.0, self.on_s - self.training_s - self.radio_s)


class Ledger:
    """Counts what is spent, device by device."""

    def __init__(self) -> None:
        self._on_since: dict[str, float] = {}
        self._on_s: defaultdict[str, float] = defaultdict(float)
        self._training_s: defaultdict[str, float] = defaultdict(float)
        self.training_s = 0.0
        """Of all."""
        self.n_fits = 0
        """Trainings and evaluations that ran, to their end or not."""

    def switched_on(self, device: str, now: float) -> None:
        """It begins to run."""
        self._on_since.setdefault(device, now)

    def switched_off(self, device: str, now: float) -> None:
        """It runs no longer; nothing when it did not."""
        since = self._on_since.pop(device, None)
        if since is not None:
            self._on_s[device] += now - since

    def trained(self, device: str, seconds: float) -> None:
        """A training has taken so many seconds."""
        self._training_s[device] += seconds
        self.training_s += seconds
        self.n_fits += 1

    def spent(self, device: str, traffic: tuple[int, int], link: LinkProfile, now: float) -> Spent:
        """Return what one device has spent until now."""
        since = self._on_since.get(device)
        return Spent(
            on_s=self._on_s[device] + (0.0 if since is None else now - since),
            training_s=self._training_s[device],
            radio_s=radio_s(traffic, link),
            bytes_up=traffic[0],
            bytes_down=traffic[1],
        )


def radio_s(traffic: tuple[int, int], link: LinkProfile) -> float:
    """Return how long a link takes for bytes up and down: 80,000 at 40,000 a second take 2 s."""
    rates = (link.up_bytes_per_s, link.down_bytes_per_s)
    return sum(n_bytes / rate for n_bytes, rate in zip(traffic, rates, strict=True) if rate is not None)
