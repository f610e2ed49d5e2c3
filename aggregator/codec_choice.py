"""Which codec a device encodes its update with: one for all by name, or with "auto" one for each lease.

"auto" gives int8 wherever nothing speaks against it: whole floats bring the model nothing that is worth four times the
bytes (`shared/codecs/int8.py`). One bit a value is given to a device alone whose link would not bring int8 up in the
share of the window that is for the way up, and only where so many updates are averaged that its error averages out
(`shared/codecs/one_bit.py`): with fewer the round is better off without that device than with that noise. An update
that weighs as much as several is averaged with as many fewer of its like: where each weighs at most a share 1/n of a
round, the squares of the shares sum to 1/n at most, as those of n equal ones. Nothing is averaged out where a rule
looks at single updates, a norm is bounded (that of a decoded one is 1.25 times as large), or an algorithm's state or
weight hangs on one update; a device that speaks nothing else is then refused. Floats are for devices that do not speak
int8. A codec that keeps something on the device is never given unless it is named: what it has left out counts only if
that device comes back, and nobody can promise that for a fleet.

A device does not flip at a threshold: back from one bit to int8 it needs twice the rate. What of a device's uplink is
known, and how, is in `track_records.py`; of an unknown one nothing is held against int8.

Pure: the same arguments give the same codec, so a restart goes on as before.
"""

from collections.abc import Collection, Mapping
from functools import cache

from aggregator.config import Settings
from aggregator.learning_settings import AUTO
from shared.codecs import CODECS, EXTRAS, codec_named
from shared.parameters import ParameterSpec

__all__ = ["LEAST_FOR_ONE_BIT", "CodecChoice", "choose", "one_bit_doubt", "sizes_of", "usable_of"]

ONE_BIT = "one-bit"
LEAST_FOR_ONE_BIT = 20
"""Updates a round: one update's squared error of 0.57 of its squared norm then is 0.03 of that of their mean."""
UP_SHARE = 0.5
"""Of the seconds left: the rest is for the model's way down and for training, as with timed work (`modes.py`)."""
SAFETY = 1.5
"""A link may be so much slower than it was measured."""
HYSTERESIS = 2.0

_AVERAGED = ("fedavg", "fedsgd", "fedprox")
_USUAL = ("int8", "float16", "float32")
"""Good for any round, the smallest first: what the larger ones have in accuracy is lost in the noise of training."""


def choose(
    speaks: Collection[str],
    update_bytes: Mapping[str, int],
    *,
    policy: str = AUTO,
    uplink_bytes_per_s: float | None = None,
    seconds_left: float,
    n_averaged: int,
    relative_weight: float = 1.0,
    before: str = "",
    max_bytes: int | None = None,
) -> str | None:
    """Return the codec for one lease, None if the device speaks none that will do.

    Args:
        speaks: names of the codecs that the device speaks, without those that need state where it keeps none.
        update_bytes: of an update at most, by its codec.
        policy: "auto", or the name of the one for all.
        uplink_bytes_per_s: of the device, as far as it was measured; 0: an update never came up; None: unknown.
        seconds_left: until the update must have come.
        n_averaged: so many updates are averaged, at least.
        relative_weight: of the device, the mean of all being 1.
        before: with which it was asked last; "": never.
        max_bytes: an update must not be larger; None: the codec says how large.
    """

    def will_do(name: str) -> bool:
        return name in speaks and (max_bytes is None or update_bytes[name] <= max_bytes)

    if policy != AUTO:
        return policy if will_do(policy) else None
    usual = next((name for name in _USUAL if will_do(name)), None)
    if n_averaged < LEAST_FOR_ONE_BIT or not will_do(ONE_BIT):
        return usual
    if usual is None:  # nobody is turned away for what it weighs, which is known only once it has taken part
        return ONE_BIT
    if uplink_bytes_per_s is None or n_averaged < LEAST_FOR_ONE_BIT * relative_weight:
        return usual
    share = UP_SHARE / (HYSTERESIS if before == ONE_BIT else 1.0)
    return usual if SAFETY * update_bytes[usual] <= share * seconds_left * uplink_bytes_per_s else ONE_BIT


class CodecChoice:
    """The choice of one run.

    Args:
        settings: of the run.
        update_bytes: as `sizes_of`.
    """

    def __init__(self, settings: Settings, update_bytes: Mapping[str, int]) -> None:
        self._policy, self._update_bytes = settings.training.codec, update_bytes
        self._max_bytes = settings.transfer.max_update_bytes
        self._n_averaged = settings.round.quorum_count if _averages(settings) else 1
        self.usual = codec_named(_USUAL[0] if self._policy == AUTO else self._policy)
        """What a device is given of which nothing is known."""

    @property
    def usual_bytes(self) -> int:
        """Length in bytes of an update of the usual codec."""
        return self._update_bytes[self.usual.name]

    @property
    def largest_bytes(self) -> int:
        """The most that any lease allows an update."""
        largest = _USUAL[-1] if self._policy == AUTO else self.usual.name
        return self._max_bytes or self._update_bytes[largest]

    def bytes_of(self, codec: str) -> int:
        """The most that a lease with this codec allows an update."""
        return self._max_bytes or self._update_bytes[codec]

    def refusal(self, speaks: Collection[str], *, keeps_state: bool) -> str | None:
        """Return why a device cannot take part and what to change, None if it can.

        Args:
            speaks: names of the codecs that it speaks, known ones and others.
            keeps_state: whether it keeps what a codec leaves out.
        """
        usable = usable_of(speaks, keeps_state=keeps_state)
        if self.of(usable, uplink_bytes_per_s=None, seconds_left=0.0) is not None:
            return None
        if self._policy == AUTO:
            wanted = (*_USUAL, *((ONE_BIT,) if self._n_averaged >= LEAST_FOR_ONE_BIT else ()))
            if self._max_bytes is not None and not usable.isdisjoint(wanted):
                return f"an update does not fit in transfer.max_update_bytes = {self._max_bytes}: raise that"
            return f"speaks none of {', '.join(wanted)}: bring its client up to date"
        if self._policy in speaks and not keeps_state:
            return (
                f'{self._policy} needs a device that keeps state: choose training.codec = "auto", or let it keep some'
            )
        known = ", ".join(sorted(usable)) or "none of ours"
        needs = f" with {extra} there" if (extra := EXTRAS.get(self._policy)) else ""
        return (
            f"does not speak {self._policy}, but {known}: bring its client up to date{needs}, "
            'or set training.codec = "auto"'
        )

    def of(
        self,
        speaks: Collection[str],
        *,
        uplink_bytes_per_s: float | None,
        seconds_left: float,
        relative_weight: float = 1.0,
        before: str = "",
    ) -> str | None:
        """Return the codec for one lease: see `choose`."""
        return choose(
            speaks,
            self._update_bytes,
            policy=self._policy,
            uplink_bytes_per_s=uplink_bytes_per_s,
            seconds_left=seconds_left,
            n_averaged=self._n_averaged,
            relative_weight=relative_weight,
            before=before,
            max_bytes=self._max_bytes,
        )


def _averages(settings: Settings) -> bool:
    """Whether the error of one update is nothing but a term of a mean."""
    server = settings.server
    is_bounded = server.max_norm is not None or server.clip_norm is not None
    is_even = not is_bounded and server.reweight == "off"
    return server.rule.name == "mean" and is_even and settings.training.algorithm in _AVERAGED


def one_bit_doubt(settings: Settings) -> str | None:
    """Return why one bit a value, asked for by name, will not average out in this run; None: it will, or was not."""
    if settings.training.codec != ONE_BIT:
        return None
    if not _averages(settings):
        return "some updates count alone or more: a rule, a bound on norms, reweighting, an algorithm's state or weight"
    if (quorum := settings.round.quorum_count) < LEAST_FOR_ONE_BIT:
        return (
            f"a quorum (round.quorum x round.report_goal) of {quorum} averages fewer than {LEAST_FOR_ONE_BIT} updates"
        )
    return None


def sizes_of(spec: ParameterSpec) -> Mapping[str, int]:
    """Return the bytes of an update at most, by its codec.

    Args:
        spec: of the model, with what travels behind it.
    """
    return {name: codec_named(name, spec).encoded_bytes(spec.n_params) for name in CODECS}


def usable_of(speaks: Collection[str], *, keeps_state: bool) -> frozenset[str]:
    """Return those of our codecs that a device can use, always the same object for the same ones."""
    return _kept_once(
        frozenset(
            name for name, codec in CODECS.items() if name in speaks and (keeps_state or not codec.needs_feedback)
        )
    )


@cache
def _kept_once(names: frozenset[str]) -> frozenset[str]:
    """There are as many as subsets of our codecs, however many devices."""
    return names
