"""What a torture does to each of its runs, as a function of the seed: modes, models, kills, steps, jumps of the clock.

Pure. What real processes make of a plan differs from time to time; the plan itself does not, so a run is named by its
seed and index.

Not here: carrying it out (`torture_run.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any

from broker.link import Failures, LinkProfile
from simulator.torture_steps import Step

__all__ = [
    "CHUNK_BYTES",
    "FLEET",
    "LEARNING_RATE",
    "Act",
    "Kind",
    "LifePlan",
    "RunPlan",
    "Scale",
    "Waits",
    "aggregator_settings",
    "device_settings",
    "lives",
    "plan_run",
]

FLEET = "torture"
CHUNK_BYTES = 4096
LEARNING_RATE = 2.0**-10
A_DAY_S = 86_400.0
LONGEST_STEP_S = 2.5
"""A life whose step does not come is ended after so many seconds."""


class Kind(StrEnum):
    """What a run's updates are like."""

    INLINE = "inline"  # 64 bytes, within the report
    MIXED = "mixed"  # 12 KiB: in chunks or inline, as the aggregator of that life says
    SMALL_DISK = "small disk"  # as mixed, on a disk that is filled now and then


N_PARAMS = {Kind.INLINE: 16, Kind.MIXED: 3072, Kind.SMALL_DISK: 3072}


class Waits(StrEnum):
    """For what a run's rounds wait."""

    SYNC = "sync"
    LATE = "sync, late updates count"
    ASYNC = "async"


class Act(StrEnum):
    """What is done to one life of the aggregator."""

    KILL = "random instant"
    STEP = "step"
    RIVAL_HERE = "second aggregator, same folder"
    RIVAL_ELSEWHERE = "second aggregator, another folder"
    FILL_DISK = "disk full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large a torture is.

    Args:
        processes: of devices.
        devices: in each.
        report_goal: of a round.
        versions: of a run; then the next run begins.
        longest_run_s: after which a run has to finish without further faults, or is stuck.
        broker_every_s: mean time between two kills of the broker.
        devices_every_s: mean time between two kills of a process of devices.
        life_s: mean length of a life that ends at a random instant.
    """

    processes: int = 3
    devices: int = 24
    report_goal: int = 48
    versions: int = 80
    longest_run_s: float = 100.0
    broker_every_s: float = 8.0
    devices_every_s: float = 6.0
    life_s: float = 2.0

    @property
    def population(self) -> int:
        """All devices."""
        return self.processes * self.devices


@dataclass(frozen=True, slots=True, kw_only=True)
class LifePlan:
    """One life of the aggregator.

    Args:
        seed: of what it does with unsynchronised bytes.
        act: what is done to it.
        step: at which it kills itself, when that is the act.
        nth: passage of that step.
        after_s: when it is killed from outside.
        jumps: of its wall clock, (seconds after its start, seconds off).
        inline_bytes: updates up to this travel in the report.
        tear: whether the tail of the journal's log is torn after its death.
        has_bad_link: whether it reaches the broker through a link that breaks; never with a rival, who would be right
            to take over.
    """

    seed: str
    act: Act
    step: Step | None
    nth: int
    after_s: float
    jumps: tuple[tuple[float, float], ...]
    inline_bytes: int
    tear: bool
    has_bad_link: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """One run.

    Args:
        seed: of everything in it.
        name: of the run.
        kind: of its updates.
        waits: its mode.
        links: by device number, how bad its link is; all others have a perfect one.
    """

    seed: str
    name: str
    kind: Kind
    waits: Waits
    links: Mapping[int, LinkProfile]

    @property
    def n_params(self) -> int:
        """Of its model."""
        return N_PARAMS[self.kind]


_STEPS: Mapping[Step, tuple[int, int]] = {
    Step.BEFORE_COMMIT: (1, 40),
    Step.BEFORE_HEAD: (1, 40),
    Step.HEAD_UNSYNCED: (1, 40),
    Step.BEFORE_RECEIPTS: (2, 40),
    Step.BEFORE_FOLD: (1, 100),
    Step.VERSION_UNSYNCED: (1, 4),
    Step.VERSION_RENAME: (1, 4),
    Step.VERSION_WRITTEN: (1, 4),
    Step.BEFORE_PUBLISH: (1, 3),
}
"""From which to which passage a life may end there."""
_CHUNK_STEPS = {Step.PART_UNSYNCED: (1, 50), Step.BEFORE_RENAME: (1, 50), Step.BEFORE_ACCEPT: (1, 50)}
_KINDS = (Kind.INLINE, Kind.MIXED, Kind.SMALL_DISK, Kind.INLINE)


def plan_run(seed: int, index: int, scale: Scale) -> RunPlan:
    """Return the plan of a run."""
    name = f"run-{index:05d}"
    rng = Random(f"{seed}/{name}")
    bad = rng.sample(range(scale.population), len(_links()))
    return RunPlan(
        seed=f"{seed}/{name}",
        name=name,
        kind=_KINDS[index % len(_KINDS)],
        waits=Random(f"{seed}/{name}/mode").choice(list(Waits)),
        links=dict(zip(bad, _links(), strict=True)),
    )


def _links() -> list[LinkProfile]:
    flapping = Failures(every_s=5, lasts_s=1)
    return [
        LinkProfile(latency_s=0.01, outages=flapping),
        LinkProfile(latency_s=0.02, jitter_s=0.02, resets_every_s=5),
        LinkProfile(latency_s=0.02, up_bytes_per_s=2000, down_bytes_per_s=2000),
        LinkProfile(latency_s=0.02, up_bytes_per_s=8000, down_bytes_per_s=8000, resets_every_s=5),
        LinkProfile(stalls=Failures(every_s=8, lasts_s=3)),  # a black hole: nothing flows and nobody is told
    ]


def lives(plan: RunPlan, scale: Scale) -> Iterator[LifePlan]:
    """Yield the lives of a run's aggregator, without end."""
    number = 0
    while True:
        number += 1
        seed = f"{plan.seed}/{number}"
        rng = Random(seed)
        inline = plan.kind is Kind.INLINE or rng.random() < 0.4
        steps = {**_STEPS, **({} if inline else _CHUNK_STEPS)}
        act = _act(plan.kind, number, rng)
        step = rng.choice(list(steps)) if act is Act.STEP else None
        yield LifePlan(
            seed=seed,
            act=act,
            step=step,
            nth=rng.randint(*steps[step]) if step else 0,
            after_s=LONGEST_STEP_S if step else rng.uniform(0.1, 2 * scale.life_s - 0.1),
            jumps=_jumps(rng),
            inline_bytes=32_768 if inline else 0,
            tear=rng.random() < 0.5,
            has_bad_link=act in (Act.KILL, Act.STEP) and rng.random() < 0.06,
        )


def _act(kind: Kind, number: int, rng: Random) -> Act:
    if number % 7 == 3:  # a few lives in, so that there is something to protect
        if kind is Kind.SMALL_DISK and number % 14 == 3:
            return Act.FILL_DISK
        if number % 21 == 3 + 7:
            return rng.choice((Act.RIVAL_HERE, Act.RIVAL_ELSEWHERE))
    return Act.STEP if rng.random() < 0.6 else Act.KILL


def _jumps(rng: Random) -> tuple[tuple[float, float], ...]:
    """Return where the clock stands: right, a day off, or jumping while the aggregator lives."""
    days = (-A_DAY_S, 0.0, A_DAY_S)
    if rng.random() < 0.5:
        return ()
    return ((0.0, rng.choice(days)), (rng.uniform(0.1, 1.5), rng.choice(days)))


def aggregator_settings(
    plan: RunPlan, scale: Scale, *, url: str, folder: Path, inline_bytes: int, name: str | None = None
) -> dict[str, Any]:
    """Return the settings of an aggregator, as `aggregator.config.Settings` takes them.

    Args:
        plan: of the run.
        scale: of the torture.
        url: of the broker.
        folder: in which the run has its folder.
        inline_bytes: updates up to this travel in the report.
        name: of another run, for a rival.
    """
    return {
        "task": "simulator.torture_task:task",
        "fleet": FLEET,
        "run": name or plan.name,
        "broker": {"url": url, "keepalive_s": 5},
        "round": _round(plan.waits, scale.report_goal),
        **_training(plan.waits),
        "evaluation": {"central_every": 0},
        "stop": {"rounds": scale.versions},
        "transfer": {
            "chunk_bytes": CHUNK_BYTES,
            "inline_bytes": inline_bytes,
            "check_in_interval_s": 1,
            "reconnect_window_s": 0.3,
            "messages_per_s": 1000,
        },
        "output": {"folder": str(folder), "keep_best": False, "plot": False},
    }


def _training(waits: Waits) -> dict[str, Any]:
    """Return how the model moves: by the same rate, whoever applies it.

    The task returns gradients either way: they travel as they are, while what is subtracted from a model, and added to
    it again, would be rounded. What is late may not be called a gradient, though.
    """
    if waits is Waits.SYNC:
        return {"training": {"algorithm": "fedsgd", "learning_rate": LEARNING_RATE, "codec": "float32"}}
    return {"training": {"codec": "float32"}, "server": {"optimizer": {"learning_rate": LEARNING_RATE}}}


def _round(waits: Waits, goal: int) -> dict[str, Any]:
    knobs: dict[str, Any] = {"report_goal": goal, "quorum": 0.5, "window_s": {"min": 1, "max": 3}, "lease_s": 3}
    # 1 and a half are exact, so that every sum stays so; (1 + 2)^-1 is not
    late = {"max_staleness": 1, "staleness_exponent": 1}
    match waits:
        case Waits.SYNC:
            return {**knobs, "over_selection": 1.3}
        case Waits.LATE:
            return {**knobs, "over_selection": 1.3, **late}
        case Waits.ASYNC:
            return {**knobs, "mode": "async", "outstanding": goal + goal // 4, **late}


def device_settings(*, url: str, folder: Path) -> dict[str, Any]:
    """Return the settings of devices, as `edge_client.config.EdgeSettings` takes them: patience counted in seconds."""
    return {
        "fleet": FLEET,
        "folder": str(folder),
        "until_finished": False,
        "broker": {"url": url, "keepalive_s": 5},
        "timers": {
            "receipt_min_s": 0.25,
            "receipt_max_s": 1,
            "parked_offer_s": 1,
            "finish_s": 2,
            "chunk_s": 3,
            "check_in_interval_s": 1,
            "conditions_interval_s": 3600,
            "permanent_retry_s": 5,
        },
    }
