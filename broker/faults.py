"""How the simulated broker misbehaves: one switch for each thing that real brokers were seen to do.

A switch is off by default, and a run with all of them off asks the dice nothing. `Faults.drawn` switches on a random
few, mild enough that a fleet still gets on; `describe` says in words what is on. Each was seen on Mosquitto 2.0.11,
the version of Debian 12, unless a field names another.

Not here: doing it (`misdelivery.py`, `simulated.py`), and links (`link.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from random import Random
from typing import Any

from broker.link import PERFECT, Failures, LinkProfile
from shared.errors import InvalidState

__all__ = ["MISBEHAVIOURS", "Faults"]

PROBABILITIES = ("lose_qos0", "duplicate_qos1", "lose_acknowledged", "reorder", "delay", "late_will", "lose_will")
POSITIVE = (
    *("reorder_s", "delay_s", "max_queued_messages", "stalled_head", "discard_after_s", "wildcard_retained"),
    *("crash_every_s", "late_will_s", "max_payload_bytes", "drop_above_bytes", "cut_above_bytes"),
)
MOST_MORE = 3
"""So many more than asked for are drawn at most."""


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
        delay: probability that a message comes minutes late, or not at all when its receiver's connection has ended.
        delay_s: how late at most, in seconds.
        max_queued_messages: so many at QoS 1 may be under way to one client, or held for it; whatever comes on top is
            acknowledged and dropped. None: any number.
        stalled_head: once so many at QoS 1 are under way to one client, the next ones are held until somebody
            publishes to it again after those have arrived. None: never.
        discard_after_s: a message at QoS 1 that takes longer than this to arrive, in seconds, is dropped (amqtt: 5 s).
            None: never.
        wildcard_retained: so many retained messages one wildcard of a SUBSCRIBE at QoS 1 gets at most (Mosquitto:
            1020); the rest is missing without a word. None: all.
        leak_retained: whoever connects gets, at QoS 0, what is retained and matches anybody else's filter (amqtt).
        crash_every_s: mean time between two crashes, in seconds: connections, subscriptions and wills are gone. None:
            it crashes only when it is told to.
        crash_lasts_s: mean time until it is there again, in seconds.
        autosave_s: what a crash leaves of retained messages: the state at the last save, one every so many seconds.
            0: all that was ever acknowledged; None: nothing.
        late_will: probability that a will is published only when the connection has been gone for a while, perhaps
            after the client has come back.
        late_will_s: how late at most, in seconds: a half-open connection ends after one and a half keepalives.
        lose_will: probability that a will is never published.
        max_payload_bytes: what the broker announces as its limit; None: nothing. A client refuses to send more.
        drop_above_bytes: a larger payload is acknowledged and dropped, announced or not. None: none is.
        cut_above_bytes: a larger payload costs its publisher the connection, announced or not. None: none does.
    """

    link: LinkProfile = PERFECT
    lose_qos0: float = 0.0
    duplicate_qos1: float = 0.0
    lose_acknowledged: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 0.05
    delay: float = 0.0
    delay_s: float = 600.0
    max_queued_messages: int | None = None
    stalled_head: int | None = None
    discard_after_s: float | None = None
    wildcard_retained: int | None = None
    leak_retained: bool = False
    crash_every_s: float | None = None
    crash_lasts_s: float = 1.0
    autosave_s: float | None = None
    late_will: float = 0.0
    late_will_s: float = 90.0
    lose_will: float = 0.0
    max_payload_bytes: int | None = None
    drop_above_bytes: int | None = None
    cut_above_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no probability, and limits that let nothing through."""
        for name in PROBABILITIES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidState(f"{name} is a probability, not {getattr(self, name)}")
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidState(f"{name} is more than 0, not {value}")
        for name in ("crash_lasts_s", "autosave_s"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InvalidState(f"{name} is at least 0, not {value}")

    @classmethod
    def drawn(cls, rng: Random, *, at_least: int = 3) -> "Faults":
        """Return a random mix of misbehaviours under which a fleet still gets on, on links that take time.

        Not drawn: limits on the size of a payload, which depend on what is sent.

        Args:
            rng: the only source of the mix.
            at_least: so many are on, or up to three more; at most as many as can be drawn.
        """
        can_be_drawn = [each for each in MISBEHAVIOURS if each.draw is not None]
        if not 0 <= at_least <= len(can_be_drawn):
            raise InvalidState(f"between 0 and {len(can_be_drawn)} misbehaviours can be drawn, not {at_least}")
        n = rng.randint(at_least, min(at_least + MOST_MORE, len(can_be_drawn)))
        chosen = rng.sample(can_be_drawn, n)
        values: dict[str, Any] = {"link": _some_link(rng, stalls=any(each.wants_stalls for each in chosen))}
        for each in chosen:
            assert each.draw is not None
            values |= each.draw(rng)
        return cls(**values)

    @property
    def touch_deliveries(self) -> bool:
        """Whether a delivery has to ask at all what becomes of it."""
        probable = self.lose_qos0 or self.duplicate_qos1 or self.lose_acknowledged or self.reorder or self.delay
        limits = (self.max_queued_messages, self.stalled_head, self.discard_after_s)
        return bool(probable or any(limits))

    @property
    def misbehaviours(self) -> tuple[str, ...]:
        """The names of the switches that are on, in the order of `MISBEHAVIOURS`."""
        return tuple(each.switch for each in MISBEHAVIOURS if getattr(self, each.switch))

    def describe(self) -> str:
        """Say in words what is on, and how bad the links are: for a person who looks at a failing run."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        saves = "loses everything" if self.autosave_s is None else f"keeps what was saved, every {self.autosave_s:g} s"
        on = [each for each in MISBEHAVIOURS if getattr(self, each.switch)]
        said = [each.words.format_map({**values, "saves": saves}) for each in on] or ["a broker without faults"]
        links = self.link.model_dump(exclude_defaults=True)
        return "; ".join([*said, "links: " + (_flat(links) if links else "perfect")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Misbehaviour:
    """One of them: its switch, how to say it, and how to draw it."""

    switch: str
    words: str
    draw: Callable[[Random], Mapping[str, Any]] | None = None
    wants_stalls: bool = False


MISBEHAVIOURS = (
    Misbehaviour(
        switch="lose_qos0",
        words="{lose_qos0:.1%} at QoS 0 lost",
        draw=lambda rng: {"lose_qos0": rng.uniform(0.02, 0.3)},
    ),
    Misbehaviour(
        switch="lose_acknowledged",
        words="{lose_acknowledged:.1%} acknowledged and lost",
        draw=lambda rng: {"lose_acknowledged": rng.uniform(0.01, 0.06)},
    ),
    Misbehaviour(
        switch="duplicate_qos1",
        words="{duplicate_qos1:.1%} twice",
        draw=lambda rng: {"duplicate_qos1": rng.uniform(0.05, 0.4)},
    ),
    Misbehaviour(
        switch="reorder",
        words="{reorder:.1%} overtaken within {reorder_s:.2f} s",
        draw=lambda rng: {"reorder": rng.uniform(0.05, 0.3), "reorder_s": rng.uniform(0.05, 5.0)},
    ),
    Misbehaviour(
        switch="delay",
        words="{delay:.1%} up to {delay_s:.0f} s late",
        draw=lambda rng: {"delay": rng.uniform(0.002, 0.02), "delay_s": rng.uniform(60.0, 600.0)},
    ),
    Misbehaviour(
        switch="max_queued_messages",
        words="dropped beyond {max_queued_messages} queued for one client",
        draw=lambda rng: {"max_queued_messages": rng.randint(4, 40)},
        wants_stalls=True,
    ),
    Misbehaviour(
        switch="stalled_head",
        words="stalled behind {stalled_head} queued for one client",
        draw=lambda rng: {"stalled_head": rng.randint(3, 20)},
        wants_stalls=True,
    ),
    Misbehaviour(
        switch="discard_after_s",
        words="discarded after {discard_after_s:g} s",
        draw=lambda rng: {"discard_after_s": 5.0},
        wants_stalls=True,
    ),
    Misbehaviour(
        switch="wildcard_retained",
        words="at most {wildcard_retained} retained a wildcard",
        draw=lambda rng: {"wildcard_retained": rng.randint(1, 10)},
    ),
    Misbehaviour(
        switch="leak_retained",
        words="retained messages leak to whoever connects",
        draw=lambda rng: {"leak_retained": True},
    ),
    Misbehaviour(
        switch="crash_every_s",
        words="crashes every {crash_every_s:.0f} s for {crash_lasts_s:.1f} s and {saves}",
        draw=lambda rng: {
            "crash_every_s": rng.uniform(60.0, 600.0),
            "crash_lasts_s": rng.uniform(0.0, 20.0),
            "autosave_s": rng.choice([None, 0.0, rng.uniform(1.0, 120.0)]),
        },
    ),
    Misbehaviour(
        switch="late_will",
        words="{late_will:.1%} of wills up to {late_will_s:.0f} s late",
        draw=lambda rng: {"late_will": rng.uniform(0.2, 1.0), "late_will_s": rng.uniform(1.0, 90.0)},
    ),
    Misbehaviour(
        switch="lose_will",
        words="{lose_will:.1%} of wills lost",
        draw=lambda rng: {"lose_will": rng.uniform(0.2, 1.0)},
    ),
    Misbehaviour(switch="drop_above_bytes", words="acknowledged and dropped above {drop_above_bytes} bytes"),
    Misbehaviour(switch="cut_above_bytes", words="disconnected above {cut_above_bytes} bytes"),
)
"""All of them."""


def _some_link(rng: Random, *, stalls: bool) -> LinkProfile:
    """Draw a link that takes time, so that something can be under way on it; perhaps one that stalls."""
    return LinkProfile(
        latency_s=rng.uniform(0.01, 0.2),
        jitter_s=rng.uniform(0.0, 0.1),
        stalls=Failures(every_s=rng.uniform(20.0, 120.0), lasts_s=rng.uniform(2.0, 10.0)) if stalls else None,
    )


def _flat(values: Mapping[str, Any]) -> str:
    said = (f"{name} {_flat(value) if isinstance(value, dict) else f'{value:.3g}'}" for name, value in values.items())
    return ", ".join(said)
