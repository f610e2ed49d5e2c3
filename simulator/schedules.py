"""Crash schedules: fleets whose every misfortune is drawn from one seed.

A schedule says what is learned, in which mode, by whom, over which links, how the broker misbehaves, whose work is
late, whose disk is full, and who dies when and how. It is a function of its seed, so that a failing one is replayed by
its number.

Pure. Not here: carrying it out (`schedule_run.py`), and what must hold (`schedule_witness.py`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from broker.faults import Faults
from broker.link import PERFECT, Failures, LinkProfile
from shared.codecs import CODECS
from simulator.lossy_disk import Death, Step

__all__ = ["Crash", "FullDisk", "Schedule"]

ROUNDS = 5
N_DEVICES = (8, 8, 8, 9, 12)
LEAST_MISBEHAVIOURS = 3
CHUNK_BYTES = 4096
CODECS_DRAWN = ("float32", "float16", "int8", "int8", "int8-zstd", "one-bit", "top-1-percent", "top-1-percent", "auto")
LEAST_FOR_RULE = {
    "median": (1, 0),
    "geometric-median": (1, 0),
    "centered-clipping": (1, 0),
    "trimmed-mean": (1, 2),
    "krum": (3, 2),
    "multi-krum": (3, 2),
    "bulyan": (3, 4),
}
"""A rule asks for a + b f reports, f of which may be anything."""
EARLY_COMMITS, COMMITS = 6, 16
"""Commits of its journal after which the first two crashes come, at most, and the others: a run of five rounds makes
some twenty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """One death.

    Args:
        victim: "aggregator", "broker" or a device.
        after_commits: it comes once the aggregator's journal has had so many commits, over all its lives.
        delay_s: and so many seconds have passed since.
        within: dies within a call of its own that follows then; None: at that instant, between two calls.
        is_power_cut: whether its disk loses what was not synchronised.
        down_s: seconds until it is back.
        loses_folder: whether somebody deletes its folder meanwhile; of a device alone.
    """

    victim: str
    after_commits: int
    delay_s: float
    within: Death | None
    is_power_cut: bool
    down_s: float
    loses_folder: bool = False

    def __str__(self) -> str:
        how = "loses power" if self.is_power_cut else "is killed"
        where = ""
        if self.within is not None:
            where = f" within its {self.within.at}. {self.within.step or 'call to the disk'}"
        when = f"{self.delay_s:.3f} s after commit {self.after_commits}"
        folder = " without its folder" if self.loses_folder else ""
        return f"{self.victim} {how}{where}, {when}, down {self.down_s:.1f} s{folder}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FullDisk:
    """A disk that takes nothing for a while."""

    victim: str
    after_commits: int
    lasts_s: float

    def __str__(self) -> str:
        return f"{self.victim}'s disk is full for {self.lasts_s:.1f} s after commit {self.after_commits}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Everything that happens to one fleet.

    Args:
        seed: it was drawn from.
        links: of each device, by its name.
        n_params: of the model; whether its updates travel inline or in chunks follows from it.
        faults: of the broker.
        late: probability that a piece of blocking work takes long.
        crashes: who dies.
        full_disks: whose disk is full.
        tables: of the aggregator's settings.
    """

    seed: int
    links: dict[str, LinkProfile]
    n_params: int
    faults: Faults
    late: float
    crashes: tuple[Crash, ...]
    full_disks: tuple[FullDisk, ...]
    tables: dict[str, dict[str, Any]]

    @classmethod
    def drawn(cls, seed: int) -> "Schedule":
        """Return the schedule of a seed."""
        rng = Random(f"schedule {seed}")
        devices = [f"d{i}" for i in range(rng.choice(N_DEVICES))]
        faults = Faults.drawn(rng, at_least=LEAST_MISBEHAVIOURS)
        if faults.link.stalls is None and rng.random() < 0.5:  # much is decided in one instant then
            faults = replace(faults, link=PERFECT)
        return cls(
            seed=seed,
            links={device: _link(rng, faults.link) for device in devices},
            n_params=rng.choice((32, 200, 1500, 3000)),
            faults=faults,
            late=rng.choice((0.0, 0.002, 0.01)),
            crashes=tuple(_forgetting(_crashes(rng, devices, seed), devices, Random(f"folders {seed}"))),
            full_disks=tuple(_full_disks(rng, devices)),
            tables=_varied(_tables(rng), seed),
        )

    def lines(self) -> Iterator[str]:
        """Yield what happens, for people."""
        size = 4 * self.n_params
        algorithm = self.tables["training"].get("algorithm", "fedavg")
        rule, codec = self.tables["server"].get("rule", "mean"), self.tables["training"]["codec"]
        fleet = f"{len(self.links)} devices, {algorithm} in {codec}, {rule}, a model of {size} bytes"
        yield f"seed {self.seed}: {fleet}, {self.tables['round']}"
        yield f"the broker: {self.faults.describe()}"
        for device, link in self.links.items():
            if link != self.faults.link:
                yield f"{device}'s link: {link.model_dump(exclude_defaults=True)}"
        if self.late:
            yield f"one piece of blocking work in {round(1 / self.late)} is late"
        yield "commits are those of the aggregator's journal, not versions; a call is counted from that moment on:"
        for each in (*self.crashes, *self.full_disks):
            yield str(each)


def _link(rng: Random, usual: LinkProfile) -> LinkProfile:
    """Return a device's link: one in four flaps as well."""
    match rng.randrange(8):
        case 0:
            return usual.model_copy(update={"resets_every_s": rng.uniform(5.0, 30.0)})
        case 1:
            outages = Failures(every_s=rng.uniform(10.0, 60.0), lasts_s=rng.uniform(0.5, 5.0))
            return usual.model_copy(update={"outages": outages})
        case _:
            return usual


def _crashes(rng: Random, devices: list[str], seed: int) -> Iterator[Crash]:
    """Yield two to four: the first is the aggregator's, in three of four schedules."""
    n_crashes = rng.choice((2, 2, 2, 3, 3, 4))
    for i in range(n_crashes):
        kind = 0.0 if i == 0 and rng.random() < 0.75 else rng.random()
        victim = "aggregator" if kind < 0.5 else "broker" if kind < 0.65 else rng.choice(devices)
        is_power_cut = victim != "broker" and rng.random() < 0.5
        within = None
        if victim != "broker" and rng.random() < 0.6:
            step = rng.choice((None, None, Step.COMMIT, Step.SYNC, Step.RENAME, Step.UNLINK, Step.WRITE))
            if victim != "aggregator" and step is Step.COMMIT:
                step = None
            at = rng.randint(1, 12 if victim == "aggregator" and step in (None, Step.COMMIT, Step.SYNC) else 3)
            within = Death(step=step, at=at, is_power_cut=is_power_cut, seed=f"{seed}/{i}")
        yield Crash(
            victim=victim,
            after_commits=rng.randint(1, EARLY_COMMITS if i < 2 else COMMITS),
            delay_s=rng.choice((0.0, rng.uniform(0.0, 0.01), rng.uniform(0.0, 0.5))),
            within=within,
            is_power_cut=is_power_cut,
            down_s=rng.choice((0.0, rng.uniform(0.1, 3.0), rng.uniform(3.0, 20.0))),
        )


def _forgetting(crashes: Iterator[Crash], devices: list[str], rng: Random) -> Iterator[Crash]:
    """Yield the same, and in one schedule of three a late one more, of a device that comes back without its folder."""
    yield from crashes
    if rng.random() < 1 / 3:
        yield Crash(
            victim=rng.choice(devices),
            after_commits=rng.randint(EARLY_COMMITS, COMMITS),
            delay_s=rng.uniform(0.0, 0.5),
            within=None,
            is_power_cut=False,
            down_s=rng.uniform(0.0, 3.0),
            loses_folder=True,
        )


def _full_disks(rng: Random, devices: list[str]) -> Iterator[FullDisk]:
    if rng.random() < 0.15:
        victim = rng.choice(("aggregator", rng.choice(devices)))
        yield FullDisk(victim=victim, after_commits=rng.randint(1, COMMITS), lasts_s=rng.uniform(0.5, 20.0))


def _tables(rng: Random) -> dict[str, dict[str, Any]]:
    """Return settings of a run of five rounds."""
    window_s = rng.choice((15.0, 30.0))
    tables: dict[str, dict[str, Any]] = {
        "round": {
            "report_goal": rng.choice((2, 2, 3, 4)),
            "over_selection": rng.choice((1.0, 1.3, 1.7)),
            "quorum": rng.choice((0.5, 0.8, 1.0)),
            "window_s": {"min": window_s, "max": window_s * rng.choice((1, 3))},
            "extensions": rng.randint(0, 2),
            "max_examples": rng.choice((None, 10)),
        },
        "training": {
            "schedule": rng.choice(({"name": "constant"}, {"name": "exponential", "factor": 0.9})),
        },
        "server": {
            "weighting": rng.choice(("examples", "uniform")),
            "optimizer": {"learning_rate": rng.uniform(0.5, 1.0)},
        },
        "evaluation": {"central_every": 0, "federated_every": rng.choice((0, 0, 0, 2)), "window_s": 10},
        "stop": {"rounds": ROUNDS},
        "transfer": {
            "chunk_bytes": CHUNK_BYTES,
            "inline_bytes": rng.choice((0, 1024, 16_384)),
            "check_in_interval_s": 30,
            "reconnect_window_s": rng.choice((0.5, 2.0)),
            "granted_chunks": rng.choice((2, 8, 500)),
        },
    }
    tables["evaluation"]["at_end"] = rng.random() < 0.2
    return tables


def _varied(tables: dict[str, dict[str, Any]], seed: int) -> dict[str, dict[str, Any]]:
    """Return the settings with one thing after the other drawn, each from a source of its own."""
    kinds = {
        "mode": _in_a_mode,
        "algorithm": _with_an_algorithm,
        "optimizer": _with_an_optimizer,
        "rule": _with_a_rule,
        "codec": _with_a_codec,
    }
    for kind, drawn in kinds.items():
        tables = drawn(tables, Random(f"{kind} {seed}"))
    return tables


def _in_a_mode(tables: dict[str, dict[str, Any]], rng: Random) -> dict[str, dict[str, Any]]:
    """Return the settings of a run in a mode: every second is synchronous, the others take what is late."""
    knobs = tables["round"]
    constant = {"over_selection": None, "outstanding": rng.choice((1, 2, 3)) * knobs["report_goal"]}
    match rng.choice(("sync", "sync", "sync", "sync", "semi-sync", "async", "async", "between")):
        case "semi-sync":
            mode: dict[str, Any] = {"mode": "semi-sync"}
        case "async":
            mode = {"mode": "async", **constant, "max_staleness": rng.choice((1, 50))}
            mode |= rng.choice(({}, {"report_goal": 1}))
        case "between":
            mode = {**constant, "max_staleness": rng.choice((0, 1, 2))}
        case _:
            mode = {}
    return {**tables, "round": {**knobs, **mode}}


def _with_an_algorithm(tables: dict[str, dict[str, Any]], rng: Random) -> dict[str, dict[str, Any]]:
    """Return the settings of a run in which devices keep states: two of five of those that take nothing late."""
    knobs = tables["round"]
    if knobs.get("max_staleness") or knobs.get("mode") == "async":
        return tables
    match rng.choice(("fedavg", "fedavg", "fedavg", "scaffold", "feddyn")):
        case "scaffold":
            training: dict[str, Any] = {"algorithm": "scaffold"}
        case "feddyn":
            training = {"algorithm": "feddyn", "alpha": rng.choice((0.01, 0.1, 1.0))}
        case _:
            return tables
    server = {**tables["server"], "weighting": "uniform", "population": rng.choice((None, None, 12))}
    return {**tables, "training": {**tables["training"], **training}, "server": server}


def _with_an_optimizer(tables: dict[str, dict[str, Any]], rng: Random) -> dict[str, dict[str, Any]]:
    """Return the settings of a run whose server keeps moments, every second; of the others, some weigh by losses."""
    name = rng.choice(("sgd", "sgd", "sgd", "sgd", "fedavgm", "adagrad", "adam", "yogi"))
    if name != "sgd":
        return {**tables, "server": {**tables["server"], "optimizer": {"name": name}}}
    if "algorithm" in tables["training"] or rng.random() < 0.7:
        return tables
    return {**tables, "training": {**tables["training"], "algorithm": "qfedavg", "q": rng.choice((0.1, 1.0, 3.0))}}


def _with_a_rule(tables: dict[str, dict[str, Any]], rng: Random) -> dict[str, dict[str, Any]]:
    """Return the settings of a run with a rule over its cohort, two of five of those whose algorithm can have one."""
    if "algorithm" in tables["training"] or rng.random() < 0.6:
        return tables
    knobs, server = dict(tables["round"]), dict(tables["server"])
    if not knobs.get("outstanding") and rng.random() < 0.5:
        knobs["report_goal"] = rng.choice((5, 7))
    quorum = math.ceil(round(knobs["quorum"] * knobs["report_goal"], 9))
    name = rng.choice([name for name, (least, _) in LEAST_FOR_RULE.items() if least <= quorum])
    least, each = LEAST_FOR_RULE[name]
    rule: dict[str, Any] = {"name": name}
    if each:
        rule["byzantine"] = (quorum - least) // each
    if name == "centered-clipping":
        rule["radius"] = rng.choice((0.5, 50.0))
    if rng.random() < 0.25:
        rule["mixing"] = "nearest"
        rule.setdefault("byzantine", (quorum - 1) // 2)
    weighting = server["weighting"] if name == "geometric-median" else "uniform"
    server |= {"rule": rule, "weighting": weighting, "clip_norm": rng.choice((None, None, 10.0, 40.0))}
    return {**tables, "round": knobs, "server": server}


def _with_a_codec(tables: dict[str, dict[str, Any]], rng: Random) -> dict[str, dict[str, Any]]:
    """Return the settings with any codec that the algorithm can have; one that is not installed is int8 instead."""
    name = rng.choice(CODECS_DRAWN)
    if name == "top-1-percent" and tables["training"].get("algorithm") == "scaffold":
        name = "int8"
    if name != "auto" and name not in CODECS:
        name = "int8"
    return {**tables, "training": {**tables["training"], "codec": name}}
