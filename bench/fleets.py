"""Simulated fleets that are measured, and what was measured of them.

Pure. Not here: running them (`simulated.py`, `flower/simulation.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from bench.cases import MIB

__all__ = ["FLEETS", "FleetCase", "FleetFigures", "FleetResults", "fleets_table", "stages_table"]

_NONE: Final = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCase:
    """One simulated fleet.

    Args:
        name: on the command line.
        n_devices: that check in.
        n_rounds: of one run.
        report_goal: updates a round.
        over_selection: devices invited for each of them.
        n_warm_up: rounds that are not measured, in which everybody connects.
        model_bytes: of the model that grows by one; None: a linear model learns digits.
        with_flower: whether Flower's simulation does the same beside it.
    """

    name: str
    n_devices: int
    n_rounds: int
    report_goal: int
    over_selection: float = 1.3
    n_warm_up: int = 0
    model_bytes: int | None = None
    with_flower: bool = False

    def __str__(self) -> str:
        return self.name


FLEETS: Final[Mapping[str, FleetCase]] = {
    case.name: case
    for case in (
        FleetCase(
            name="simulation",
            n_devices=1000,
            n_rounds=6,
            report_goal=1000,
            over_selection=1.0,
            n_warm_up=1,
            model_bytes=4096,
            with_flower=True,
        ),
        FleetCase(name="fleet-10k", n_devices=10_000, n_rounds=100, report_goal=100),
        FleetCase(name="fleet-50k", n_devices=50_000, n_rounds=20, report_goal=1000),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetFigures:
    """What was measured of one run.

    Args:
        n_fits: trainings whose reports came, in the rounds that count.
        seconds: those rounds took, of real time.
        connect_s: until everybody had checked in; None: it is not known.
        all_s: of the whole run, from the first device to the last word.
        virtual_s: that the fleet lived through; None: time was real.
        peak_rss: bytes, most that the process ever had; None: it is not known.
        device_bytes: of memory that one device more takes, once it is connected and has checked in.
        microseconds: of CPU a fit, by stage.
        metrics: of the last version.
        sha256: of the last model; the same seed gives the same.
    """

    n_fits: int
    seconds: float
    connect_s: float | None = None
    all_s: float
    virtual_s: float | None = None
    peak_rss: int | None = None
    device_bytes: int | None = None
    microseconds: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    sha256: str = ""

    @property
    def fits_a_second(self) -> float:
        """Trainings in a second of real time."""
        return self.n_fits / self.seconds


FleetResults: TypeAlias = Mapping[str, Mapping[str, Sequence[FleetFigures]]]
"""By case and contender; the i-th runs of a case followed one another."""


def fleets_table(results: FleetResults) -> list[list[str]]:
    """Return what every run needed: the head, then a row for each case and contender; [] when there is none."""
    rows = [["fleet", "", "devices", "s in all", "s to connect", "fits", "fits a second", "against Flower"]]
    rows[0] += ["peak RSS MiB", "KiB a device", "virtual s", "accuracy"]
    for name, runs_of in results.items():
        for contender, runs in runs_of.items():
            for i, run in enumerate(runs):
                others = runs_of.get("flower", ())
                is_compared = contender == "ours" and i < len(others)
                rows.append(
                    [
                        name,
                        {"ours": "FedMQ", "flower": "Flower, Ray"}.get(contender, contender),
                        f"{FLEETS[name].n_devices}" if name in FLEETS else _NONE,
                        f"{run.all_s:.1f}",
                        _NONE if run.connect_s is None else f"{run.connect_s:.1f}",
                        str(run.n_fits),
                        f"{run.fits_a_second:.0f}",
                        f"{run.fits_a_second / others[i].fits_a_second:.2f} x" if is_compared else _NONE,
                        _NONE if run.peak_rss is None else f"{run.peak_rss / MIB:.0f}",
                        _NONE if run.device_bytes is None else f"{run.device_bytes / 1024:.1f}",
                        _NONE if run.virtual_s is None else f"{run.virtual_s:.0f}",
                        f"{run.metrics['accuracy']:.3f}" if "accuracy" in run.metrics else _NONE,
                    ]
                )
    return rows if len(rows) > 1 else []


def stages_table(results: FleetResults) -> list[list[str]]:
    """Return the microseconds of CPU a fit, by stage: the head, then a row for each run that knows them; [] if none."""
    known = [(name, run) for name, runs_of in results.items() for run in runs_of.get("ours", ()) if run.microseconds]
    if not known:
        return []
    stages = list(dict.fromkeys(stage for _, run in known for stage in run.microseconds))
    rows = [["µs of CPU a fit", "all", *stages]]
    for name, run in known:
        each = [f"{run.microseconds[stage]:.0f}" if stage in run.microseconds else _NONE for stage in stages]
        rows.append([name, f"{sum(run.microseconds.values()):.0f}", *each])
    return rows
