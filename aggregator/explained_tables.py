"""Explanations for a terminal: a table of rounds, of one round's devices, of one device's rounds, of classes.

Pure: values in, something to print out. A device's text is only ever text: no markup, no control characters.

Not here: what is shown (`explanation.py`, `fairness.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from aggregator.explained_causes import pause_words
from aggregator.explanation import STATES, ExplainedLease, ExplainedRound, ExplainedRun, TimeSplit
from aggregator.fairness import FairnessReport
from shared.messages import for_people

__all__ = ["class_name", "device_table", "fairness_table", "round_table", "rounds_table"]

SHOWN_FAILURES = 2
"""Reasons why leases of a round failed, in the table of rounds; `explain RUN ROUND` has them all."""
_PARTS = ("waiting", "download", "training", "upload", "offline", "unknown")
_STYLES = {
    "accepted": "green",
    "late": "yellow",
    "lost": "red",
    "failed": "red",
    "rejected": "red",
    "refused": "magenta",
}


def class_name(name: str) -> str:
    """Return a class of device for people."""
    return for_people(name) if name else "not said"


def rounds_table(run: ExplainedRun) -> RenderableType:
    """Return a row a round, and below it how the run ended and what is counted how."""
    states = [state for state in STATES if any(each.counts[state] for each in run.rounds)]
    table = _table(
        "round", "outcome", "version", *_right("s", "selected", *states, "refused"), "slowest", "time went to"
    )
    table.add_column("why it ended", overflow="fold")
    for each in run.rounds:
        table.add_row(
            str(each.round_id),
            Text(each.outcome, style={"committed": "green", "abandoned": "red"}.get(each.outcome, "yellow")),
            "" if each.version is None else str(each.version),
            _seconds(each.seconds),
            str(each.n_selected),
            *(str(each.counts[state]) for state in states),
            str(each.n_refused),
            _slowest(each),
            _mostly(each.device_seconds),
            Text(_why(each)),
        )
    return Group(table, Text(_run_line(run), style="dim"))


def round_table(run: ExplainedRun, each: ExplainedRound) -> RenderableType:
    """Return a row a device of one round, the refused ones last."""
    head = Text(f"round {each.round_id} of {run.run}: {each.outcome}, {each.cause}")
    table = _lease_table("device", "class")
    for lease in sorted(each.leases, key=lambda lease: (STATES.index(lease.state), lease.device)):
        table.add_row(Text(for_people(lease.device)), class_name(lease.device_class), *_lease_cells(lease))
    for refusal in each.refused:
        table.add_row(
            Text(for_people(refusal.device)),
            class_name(refusal.device_class),
            *_refusal_cells(refusal.reason, refusal.detail, since=refusal.since_round),
        )
    counts = ", ".join(f"{each.counts[state]} {state}" for state in STATES if each.counts[state])
    foot = f"{each.n_selected} selected: {counts or 'none'}; {each.n_refused} refused"
    return Group(head, table, *(Text(line, style="dim") for line in [foot, *_rule_lines(run)]))


def device_table(run: ExplainedRun, device: str, *, round_id: int | None = None) -> RenderableType:
    """Return a row a lease and a refusal of one device, in the order of rounds."""
    table = _lease_table("round")
    states: dict[str, int] = {}
    for each in run.rounds:
        if round_id not in (None, each.round_id):
            continue
        for lease in each.leases:
            if lease.device == device:
                table.add_row(str(each.round_id), *_lease_cells(lease))
                states[lease.state] = states.get(lease.state, 0) + 1
        for refusal in each.refused:
            if refusal.device == device:
                cells = _refusal_cells(refusal.reason, refusal.detail, since=refusal.since_round)
                table.add_row(str(each.round_id), *cells)
                states["refused"] = states.get("refused", 0) + 1
    counts = ", ".join(f"{n} {state}" for state, n in states.items())
    return Group(Text(f"{for_people(device)} in {run.run}"), table, Text(counts, style="dim"))


def fairness_table(run: ExplainedRun, report: FairnessReport) -> RenderableType:
    """Return a row a class, and below it how even it is over devices."""
    accuracy = {each.device_class: each for each in report.accuracy}
    titles = ("devices", "share", "selected", "accepted", "late", "lost", "refused", "weight", "weight/share", "finish")
    table = _table("class", *_right(*titles))
    if report.metric is not None:
        table.add_column(f"{for_people(report.metric)} (p10)", justify="right")
    for each in report.classes:
        cells = [
            class_name(each.device_class),
            str(each.n_devices),
            f"{each.population_share:.1%}",
            f"{each.n_selected} ({each.selected_share:.1%})",
            str(each.n_accepted),
            str(each.n_late),
            str(each.n_lost),
            str(each.n_refused),
            f"{each.weight_share:.1%}",
            "" if each.representation is None else f"{each.representation:.2f}",
            "" if each.completion is None else f"{each.completion:.0%}",
        ]
        if report.metric is not None:
            found = accuracy.get(each.device_class)
            cells.append("" if found is None else f"{found.value:.4g} ({found.p10:.4g})")
        table.add_row(*cells)
    lines = [f"{report.n_ever_counted} of {report.n_devices} devices have counted", *_rule_lines(run)]
    indexes = {"given work": report.jain_selected, "counted": report.jain_counted, "weight": report.jain_weight}
    shown = ", ".join(f"{name} {value:.2f}" for name, value in indexes.items() if value is not None)
    lines.append(f"Jain's index over devices (1: all alike): {shown or 'nothing counted yet'}")
    if report.heaviest_tenth is not None:
        lines.append(f"the heaviest tenth of the devices weighs {report.heaviest_tenth:.0%} of the model")
    if report.metric is not None and report.value is not None and report.p10 is not None:
        worst = "" if report.worst_class is None else f"; worst class {class_name(report.worst_class)}"
        lines.append(
            f"version {report.version} on devices: {for_people(report.metric)} {report.value:.4g}, "
            f"10th percentile {report.p10:.4g}, deviation {report.deviation or 0.0:.4g}{worst}"
        )
    else:
        lines.append("no version was evaluated on devices: set evaluation.federated_every")
    return Group(Text(f"{run.run}: who takes part"), table, *(Text(line, style="dim") for line in lines))


def _table(*titles: str | tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in titles:
        if isinstance(title, tuple):
            table.add_column(title[0], justify="right", no_wrap=True)
        else:
            table.add_column(title, no_wrap=True)
    return table


def _right(*titles: str) -> list[tuple[str, str]]:
    return [(title, "right") for title in titles]


def _lease_table(*titles: str) -> Table:
    table = _table(*titles, "state", *_right("s", *_PARTS[:-1]), "codec", "version")
    table.add_column("why", overflow="fold")
    return table


def _lease_cells(lease: ExplainedLease) -> list[RenderableType]:
    return [
        Text(lease.state, style=_STYLES.get(lease.state, "")),
        _seconds(lease.seconds),
        *_split_cells(lease.time),
        lease.codec,
        "" if lease.into is None else str(lease.into),
        Text(for_people(lease.cause)),
    ]


def _split_cells(time: TimeSplit | None) -> Sequence[str]:
    if time is None or time.unknown:
        return ["?"] * len(_PARTS[:-1])
    return [_seconds(getattr(time, part)) for part in _PARTS[:-1]]


def _refusal_cells(reason: str, detail: str, *, since: int) -> list[RenderableType]:
    words = f"{reason}: {detail}" if detail else reason
    why = Text(for_people(f"{words} (since round {since})"))
    return [Text("refused", style=_STYLES["refused"]), *[""] * (len(_PARTS) + 2), why]


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}"


def _slowest(each: ExplainedRound) -> Text:
    if each.slowest is None:
        return Text("")
    of_class = f" ({class_name(each.slowest_class)})" if each.slowest_class else ""
    return Text(for_people(each.slowest) + of_class)


def _why(each: ExplainedRound) -> str:
    """Return why it ended, and for what most leases of it failed or were rejected."""
    shown = [f"{n} x {for_people(why)}" for why, n in islice(each.failures.items(), SHOWN_FAILURES)]
    return "; ".join([each.cause, *shown])


def _mostly(device_seconds: Mapping[str, float]) -> str:
    """Return the parts that took a tenth or more, the largest first."""
    total = sum(device_seconds.values())
    shares = sorted(((seconds / total, part) for part, seconds in device_seconds.items() if total), reverse=True)
    return ", ".join(f"{part} {share:.0%}" for share, part in shares if share >= 0.1)


def _run_line(run: ExplainedRun) -> str:
    outcomes = _count(each.outcome for each in run.rounds)
    rounds = ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items()) or "none yet"
    end = f"finished by {run.finished_by}" if run.finished_by else "not finished"
    end += f", stands still ({pause_words(run.pauses)})" if run.pauses else ""
    line = f"{run.run} at version {run.version}, {end}; rounds: {rounds}. A round in detail: explain RUN ROUND"
    return "\n".join([line, *_rule_lines(run)])


def _rule_lines(run: ExplainedRun) -> list[str]:
    """Return what a robust rule makes of the word "counted"."""
    if run.rule == "mean" or not any(each.outcome == "committed" for each in run.rounds):
        return []
    return [f"What counted was given to the rule {run.rule}; whom it left out is not in the journal."]


def _count(words: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return counts
