"""What a simulated run came to, as one JSON: rounds, costs, outcomes by class, what befell the fleet.

Two runs of one scenario and seed have the same report to the bit, but for the table `machine`, which says what it took
this machine. Read from what the run has left, its history and its journal, and from what the simulation counted.

Not here: drawing (`pictures.py`), counting leases (`outcomes.py`).
"""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from aggregator.config import Settings
from aggregator.history import EvaluationSummary, RoundSummary, RunHistory
from shared.config import settings_json
from shared.errors import ConfigError
from shared.messages import for_people
from shared.task import PERSONAL
from simulator.fleet import WALL_START_S
from simulator.outcomes import FAILED, HOW, Outcomes, read_outcomes
from simulator.runs.curves import Cost, Curve, best_of, reached
from simulator.runs.ledger import Spent
from simulator.runs.simulation import Sample, Simulated
from simulator.scenario import Scenario

__all__ = ["Report", "report_of", "size_text"]

SAMPLE_LATE_S = 0.05
"""So much earlier than a round's line may the sample of its end have been taken, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A run, for people and pictures.

    Args:
        name: of the run.
        folder: in which it lies.
        fields: what is written.
        curve: its metric over its cost.
        rounds: as the history has them.
        by_class: participations that counted, by class.
    """

    name: str
    folder: Path
    fields: Mapping[str, Any]
    curve: Curve
    rounds: Sequence[RoundSummary]
    by_class: Mapping[str, int]

    def as_json(self) -> str:
        """Return it for a program."""
        return json.dumps(self.fields, indent=1, allow_nan=False)

    def save(self) -> Path:
        """Write `report.json` into the run's folder, and return its path."""
        path = self.folder / "report.json"
        path.write_text(self.as_json() + "\n", encoding="utf-8")
        return path

    def lines(self) -> list[str]:
        """Return it for a person."""
        fields, machine, totals = self.fields, self.fields["machine"], self.fields["totals"]
        metric, rounds = fields["metric"], fields["round_seconds"]
        last = "unknown" if metric["last"] is None else f"{metric['last']:.4f}"
        when = metric["reached"]
        target = (
            ""
            if metric["target"] is None
            else f", {metric['target']:g} " + ("not reached" if when is None else f"after {clock_text(when['at_s'])}")
        )
        leases = totals["leases"]
        seconds = totals["device_seconds"]
        return [
            f"Ended:    {fields['cause']}, after {clock_text(fields['virtual_s'])} of virtual time",
            *([] if fields["waits_for"] is None else [f"Waiting:  {fields['waits_for']}"]),
            f"Result:   {metric['name']} {last} after {totals['committed']} rounds"
            f"{f', {n} abandoned' if (n := totals['abandoned']) else ''}{target}",
            *_last_evaluation(fields["on_devices"], metric["name"]),
            *_attacks(fields["fleet"], fields["settings"]),
            f"Rounds:   median {_seconds(rounds['median'])}, p95 {_seconds(rounds['p95'])}",
            f"Leases:   {leases['accepted']} accepted, {leases['too_late']} too late to count, "
            f"{f'{n} rejected, ' if (n := leases['rejected']) else ''}{leases['lost']} lost; {totals['fits']} fits",
            *_reasons(fields["reasons"], fields["failure"]),
            *_mixed(fields["codecs"]),
            *_left_out(fields["left_out"]),
            f"Traffic:  {size_text(totals['bytes_up'])} up, {size_text(totals['bytes_down'])} down, over all links",
            f"Devices:  {_hours(seconds['training'])} training, {_hours(seconds['radio'])} with the radio on, "
            f"{_hours(seconds['idle'])} idle",
            f"Machine:  {machine['seconds']:.1f} s, {machine['events_per_s']:,.0f} timers a second, "
            f"peak {size_text(machine['peak_memory_bytes'])}, {machine['executor']}",
        ]


def report_of(
    simulated: Simulated, scenario: Scenario, settings: Settings, folder: Path, *, executor: str, file: Path
) -> Report:
    """Put a run's report together.

    Args:
        simulated: what came of it.
        scenario: the fleet.
        settings: of the run.
        folder: in which it lies.
        executor: that computed.
        file: the scenario's.
    """
    history = _history(folder)
    outcomes = _outcomes(folder)
    stop = settings.stop
    costs = [_cost_at(simulated.samples, at_s_of(each)) for each in history.rounds]
    points = [
        (cost, each.metrics[stop.metric])
        for each, cost in zip(history.rounds, costs, strict=True)
        if each.outcome == "committed" and stop.metric in each.metrics
    ]
    curve = Curve(name=file.stem, metric=stop.metric, is_falling=stop.is_falling, points=points)
    target = stop.at_least if stop.at_least is not None else stop.at_most
    to_target = None if target is None else reached(curve, target)
    seconds = sorted(each.seconds for each in history.rounds if each.outcome == "committed")
    by_class = {name: each.accepted for name, each in outcomes.by_class.items()} if outcomes else {}
    total = sum(simulated.spent.values(), Spent())
    fields = {
        "scenario": file.name,
        "seed": settings.seed,
        "settings": {key: value for key, value in json.loads(settings_json(settings)).items() if key not in UNSTABLE},
        "fleet": {
            "devices": sum(scenario.counts.values()),
            "groups": dict(scenario.counts),
            "attacks": {name: each.attack.kind for name, each in scenario.devices.items() if each.attack is not None},
        },
        "cause": simulated.cause,
        "waits_for": simulated.waits_for,
        "virtual_s": simulated.virtual_s,
        "metric": {
            "name": stop.metric,
            "last": points[-1][1] if points else _on_devices_alone(history, stop.metric),
            "best": best_of(curve),
            "target": target,
            "reached": None if to_target is None else asdict(to_target),
        },
        "on_devices": None if not history.evaluations else _on_devices(history.evaluations[-1]),
        "round_seconds": {"median": _median(seconds), "p95": _p95(seconds)},
        "totals": {
            "committed": sum(each.outcome == "committed" for each in history.rounds),
            "abandoned": sum(each.outcome == "abandoned" for each in history.rounds),
            "fits": simulated.n_fits,
            "leases": _leases(outcomes),
            "outcomes": dict(history.rounds[-1].totals) if history.rounds else {},
            **_spent(total),
        },
        "reasons": outcomes.reasons if outcomes else {},
        "failure": outcomes.failure if outcomes else "",
        "left_out": simulated.result.left_out if simulated.result else {},
        "codecs": dict(outcomes.codecs) if outcomes else {},
        "classes": _classes(scenario, simulated.spent, outcomes),
        "befell": {str(name): n for name, n in sorted(simulated.struck.items())},
        "rounds": [_round(each, cost) for each, cost in zip(history.rounds, costs, strict=True)],
        "machine": {
            "executor": executor,
            "seconds": simulated.wall_s,
            "timers": simulated.n_events,
            "events_per_s": simulated.n_events / max(simulated.wall_s, 1e-9),
            "fits_per_s": simulated.n_fits / max(simulated.wall_s, 1e-9),
            "peak_memory_bytes": simulated.peak_memory_bytes,
        },
    }
    return Report(name=file.stem, folder=folder, fields=fields, curve=curve, rounds=history.rounds, by_class=by_class)


UNSTABLE = frozenset({"run", "output", "broker"})
"""Of the settings: what differs between two runs of the same scenario."""


def at_s_of(each: RoundSummary) -> float:
    """Return the virtual second at which a round ended."""
    return datetime.fromisoformat(each.ended_at).timestamp() - WALL_START_S


def _cost_at(samples: Sequence[Sample], at_s: float) -> Cost:
    """Return what had been spent when a round ended: the first sample then, or the last of all."""
    later = (sample for sample in samples if sample.at_s >= at_s - SAMPLE_LATE_S)
    sample = next(later, samples[-1] if samples else None)
    if sample is None:
        return Cost(at_s=at_s, bytes_up=0, bytes_down=0, device_s=0.0)
    device_s = sample.training_s + sample.radio_s
    return Cost(at_s=at_s, bytes_up=sample.bytes_up, bytes_down=sample.bytes_down, device_s=device_s)


def _history(folder: Path) -> RunHistory:
    try:
        return RunHistory.read(folder / "history.jsonl")
    except ConfigError:  # it ended before its first round did
        return RunHistory()


def _outcomes(folder: Path) -> Outcomes | None:
    try:
        return read_outcomes(folder)
    except ConfigError:
        return None


def _leases(outcomes: Outcomes | None) -> dict[str, int]:
    total = None if outcomes is None else outcomes.total
    return {name: getattr(total, name, 0) for name in ("leases", *HOW)}


def _spent(spent: Spent) -> dict[str, Any]:
    return {
        "bytes_up": spent.bytes_up,
        "bytes_down": spent.bytes_down,
        "device_seconds": {
            "on": spent.on_s,
            "training": spent.training_s,
            "radio": spent.radio_s,
            "idle": spent.idle_s,
        },
    }


def _classes(scenario: Scenario, spent: Mapping[str, Spent], outcomes: Outcomes | None) -> dict[str, Any]:
    """Return what became of each class; a device without one is of its group."""
    sums: defaultdict[str, Spent] = defaultdict(Spent)
    counts: defaultdict[str, int] = defaultdict(int)
    for device in scenario.plan():
        name = device.class_name or device.group
        counts[name] += 1
        sums[name] += spent.get(device.id, Spent())
    by_class = outcomes.by_class if outcomes is not None else {}
    return {
        name: {
            "devices": counts[name],
            "participated": len(each.devices) if (each := by_class.get(name)) else 0,
            **{how: getattr(each, how, 0) for how in ("leases", *HOW)},
            **_spent(sums[name]),
        }
        for name in sorted(counts)
    }


def _round(each: RoundSummary, cost: Cost) -> dict[str, Any]:
    return {
        "round": each.round_id,
        "version": each.version,
        "outcome": each.outcome,
        "seconds": each.seconds,
        "counts": dict(each.counts),
        "metrics": dict(each.metrics),
        **asdict(cost),
    }


def _on_devices(last: EvaluationSummary) -> dict[str, Any]:
    """Return the last evaluation on devices: over all examples, and the devices' own 10th, 50th, 90th percentile."""
    metrics = {name: asdict(each) for name, each in last.metrics.items()}
    return {"version": last.version, "asked": last.n_asked, "devices": last.n_devices, "metrics": metrics}


def _on_devices_alone(history: RunHistory, metric: str) -> float | None:
    return next((e.metrics[metric].value for e in reversed(history.evaluations) if metric in e.metrics), None)


def _last_evaluation(last: Mapping[str, Any] | None, metric: str) -> Iterator[str]:
    """Yield a line for the metric on devices, and one for the same of their own models."""
    common = metric.removeprefix(PERSONAL)
    for name in (common, f"{PERSONAL}{common}"):
        if last is not None and name in last["metrics"]:
            found = last["metrics"][name]
            yield (
                f"Tested:   {name} {found['value']:.4f} of version {last['version']} on {found['n_devices']} devices, "
                f"median {found['p50']:.4f}, 10th percentile {found['p10']:.4f}"
            )


def _reasons(reasons: Mapping[str, Mapping[str, int]], failure: str) -> Iterator[str]:
    """Yield a line of why updates were rejected, and one of why devices failed, with the words of most of them."""
    for how, counts in reasons.items():
        words = f"; mostly: {for_people(failure)}" if how == FAILED and failure else ""
        yield f"{f'{how.capitalize()}:':10}{', '.join(f'{reason} {n}' for reason, n in counts.items())}{words}"


def _attacks(fleet: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line of who attacked how, and which rule was to withstand it."""
    if fleet["attacks"]:
        who = ", ".join(f"{fleet['groups'][name]} {name} ({kind})" for name, kind in fleet["attacks"].items())
        yield f"Attacked: by {who}, of {fleet['devices']} devices; the rule is {settings['server']['rule']['name']}"


def _mixed(codecs: Mapping[str, int]) -> Iterator[str]:
    """Yield a line of how many updates came in which codec, where that was not one and the same."""
    if len(codecs) > 1:
        yield f"Codecs:   {', '.join(f'{n} {name}' for name, n in codecs.items())}"


def _left_out(reasons: Mapping[str, int]) -> Iterator[str]:
    """Yield a line of why devices that were there at the end took no part, where there were any."""
    if reasons:
        yield f"Left out: {', '.join(f'{n} devices for {reason}' for reason, n in reasons.items())}, at the end"


def _median(seconds: Sequence[float]) -> float | None:
    return statistics.median(seconds) if seconds else None


def _p95(seconds: Sequence[float]) -> float | None:
    return seconds[math.ceil(0.95 * len(seconds)) - 1] if seconds else None


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} s"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s"


def clock_text(seconds: float) -> str:
    """Return virtual seconds for a person: 1 d 02:03:04."""
    days, rest = divmod(int(seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{f'{days} d ' if days else ''}{hours:02d}:{minutes:02d}:{rest:02d}"


def size_text(n_bytes: float) -> str:
    """Return a number of bytes for a person."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} GB"
