"""Explained rounds: the accounts of leases summed up by round, with how each ended, and who was kept out of it.

The journal is the truth; the timeline adds refusals and pauses, the history how long a round took. A lease may end
rounds later than the one that it was given in: it is accounted to that one, and names the version that it counted for.

Pure: rows and lines in, frozen values out. Not here: reading them from a folder (`explain.py`), who takes part how
often (`fairness.py`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from aggregator.explained_causes import pause_words, round_cause
from aggregator.explanation import STATES, ExplainedLease, ExplainedRefusal, ExplainedRound, ExplainedRun
from aggregator.history import RoundSummary
from aggregator.lease_accounts import LeaseAccounts, RoundAccount
from aggregator.phases import EndCause
from aggregator.records import Record
from aggregator.timeline_lines import PARTS, LeaseLine, PauseLine, PopulationLine, RefusalLine, StartLine, TimelineLine

__all__ = ["explain_run"]


def explain_run(
    run: str,
    records: Iterable[Record],
    lines: Iterable[TimelineLine] = (),
    history: Iterable[RoundSummary] = (),
) -> ExplainedRun:
    """Explain every round of a run.

    Args:
        run: its name.
        records: of the journal, oldest first.
        lines: of the timeline; without them times of leases that were not accepted, refusals and pauses are not known.
        history: a summary a round, for how long each took and when it ended.
    """
    seen, refusals, population, causes = _sorted(lines)
    reader = LeaseAccounts(seen)
    for record in records:
        reader.take(record)
    reader.close()
    _refuse(reader.rounds, refusals)
    summaries = {summary.round_id: summary for summary in history}
    pauses = {} if reader.finish else causes
    rounds = tuple(
        _explained_round(each, summaries.get(each.round_id), finished_by=reader.finish, pauses=pauses)
        for each in reader.rounds.values()
    )
    return ExplainedRun(
        run=run,
        version=reader.version,
        finished_by=reader.finish,
        rounds=rounds,
        population=population,
        pauses=pauses,
        evaluations=tuple(reader.evaluations),
        rule=reader.rule,
    )


def _sorted(
    lines: Iterable[TimelineLine],
) -> tuple[dict[str, LeaseLine], list[RefusalLine | StartLine], dict[str, int], dict[str, str]]:
    seen: dict[str, LeaseLine] = {}
    refusals: list[RefusalLine | StartLine] = []
    population: dict[str, int] = {}
    causes: dict[str, str] = {}
    for line in lines:
        match line:
            case LeaseLine():
                seen[line.lease] = line
            case PopulationLine():
                population = {
                    name: max(population.get(name, 0), line.by_class.get(name, 0))
                    for name in {*population, *line.by_class}
                }
            case PauseLine():
                causes = line.causes
            case StartLine():
                causes = {}
                refusals.append(line)
            case RefusalLine():
                refusals.append(line)
    return seen, refusals, dict(sorted(population.items())), causes


def _refuse(rounds: Mapping[int, RoundAccount], lines: Iterable[RefusalLine | StartLine]) -> None:
    """Enter every refusal into the rounds that it kept its device out of; the last that began in a round holds."""
    open_ones: dict[str, ExplainedRefusal] = {}

    def ends(refusal: ExplainedRefusal, last_round: int) -> None:
        for round_id in range(refusal.since_round, last_round + 1):
            if (each := rounds.get(round_id)) is not None:
                each.refused[refusal.device] = refusal

    for line in lines:
        if isinstance(line, StartLine):
            for refusal in open_ones.values():
                ends(refusal, line.round_id)
            open_ones.clear()
            continue
        before = open_ones.pop(line.device, None)
        if before is not None:
            ends(before, line.round_id - (line.reason is not None))
        if line.reason is not None:
            open_ones[line.device] = ExplainedRefusal(
                device=line.device,
                device_class=line.device_class,
                reason=line.reason,
                detail=line.detail,
                since_round=line.round_id,
            )
    for refusal in open_ones.values():
        ends(refusal, max(rounds, default=0))


def _explained_round(
    each: RoundAccount, summary: RoundSummary | None, *, finished_by: str | None, pauses: Mapping[str, str]
) -> ExplainedRound:
    counts = Counter(lease.state for lease in each.leases)
    had_lease = {lease.device for lease in each.leases}
    refused = tuple(refusal for device, refusal in sorted(each.refused.items()) if device not in had_lease)
    end, outcome = each.end, each.outcome
    if summary is not None and end is None and summary.cause is not None:
        end = EndCause(summary.cause)
    n_extensions = 0 if summary is None else summary.n_extensions
    if outcome == "open":
        outcome = "open" if finished_by is None else "unfinished"
        under_way = f"stands still, {pause_words(pauses)}" if pauses else "under way"
        cause = under_way if finished_by is None else f"the run ended before it did, by {finished_by}"
    else:
        cause = round_cause(
            end, n_accepted=each.n_accepted, goal=each.goal, quorum=each.quorum, n_extensions=n_extensions
        )
    slowest, slowest_class = _slowest(each.leases)
    return ExplainedRound(
        round_id=each.round_id,
        outcome=outcome,
        version=each.version,
        end=None if end is None else str(end),
        cause=cause,
        seconds=None if summary is None else summary.seconds,
        ended_at=None if summary is None else summary.ended_at,
        goal=each.goal,
        quorum=each.quorum,
        counts={state: counts.get(state, 0) for state in STATES},
        n_selected=len(each.leases),
        n_refused=len(refused),
        device_seconds=_device_seconds(each.leases),
        failures=_failures(each.leases),
        slowest=slowest,
        slowest_class=slowest_class,
        leases=tuple(each.leases),
        refused=refused,
    )


def _failures(leases: Iterable[ExplainedLease]) -> dict[str, int]:
    """Return why leases failed or were rejected, the commonest first.

    A device that failed names its error in a word, which is kept; the numbers of a check differ from update to update.
    """
    whys: Counter[str] = Counter()
    for lease in leases:
        if lease.state in ("failed", "rejected"):
            whys[lease.cause if lease.state == "failed" else lease.cause.partition(": ")[0]] += 1
    return dict(sorted(whys.items(), key=lambda item: (-item[1], item[0])))


def _device_seconds(leases: Iterable[ExplainedLease]) -> dict[str, float]:
    total = dict.fromkeys((*PARTS, "unknown"), 0.0)
    for lease in leases:
        if lease.time is not None:
            for part in total:
                total[part] += getattr(lease.time, part)
    return {part: round(seconds, 3) for part, seconds in total.items()}


def _slowest(leases: Iterable[ExplainedLease]) -> tuple[str | None, str | None]:
    """Return the device whose counted update took longest, and the class of which they did in the mean."""
    counted = [lease for lease in leases if lease.into is not None and lease.seconds is not None]
    if not counted:
        return None, None
    by_class: dict[str, list[float]] = {}
    for lease in counted:
        by_class.setdefault(lease.device_class, []).append(lease.seconds or 0.0)
    slowest = max(counted, key=lambda lease: lease.seconds or 0.0)
    return slowest.device, max(by_class, key=lambda name: sum(by_class[name]) / len(by_class[name]))
