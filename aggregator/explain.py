"""Reads a run's folder and explains it: the journal, and beside it the two views, timeline and history.

Works while the run is served, for it only reads. `ExplainedRun` and `FairnessReport` are what scripts and the
simulator build on.

Not here: what is found (`explained_rounds.py`, `fairness.py`), how it is shown (`explained_tables.py`).
"""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from aggregator.config import Settings
from aggregator.explained_rounds import explain_run
from aggregator.explanation import ExplainedRound, ExplainedRun
from aggregator.fairness import FairnessReport
from aggregator.history import RoundSummary, RunHistory
from aggregator.journal import read_journal
from aggregator.opening import run_name
from aggregator.timeline_lines import read_timeline
from shared.config import load_settings
from shared.errors import ConfigError

__all__ = ["as_json", "explain", "folder_of"]


def folder_of(run: Path) -> Path:
    """Return the folder of a run that is named by it, or by its TOML.

    Raises:
        ConfigError: there is no such run, or the TOML is wrong.
    """
    if run.is_dir():
        folder = run
    elif run.suffix == ".toml" or run.is_file():
        settings = load_settings(Settings, run)
        folder = settings.output.folder / run_name(settings)
    else:
        hint = "name the run's TOML, or its folder, such as runs/digits"
        raise ConfigError("there is no such run", where=str(run), hint=hint)
    if not (folder / "journal.sqlite").exists():
        hint = "python -m aggregator run RUN.toml begins it; or name its folder, such as runs/digits"
        raise ConfigError("there is no journal of a run here", where=str(folder), hint=hint)
    return folder


def explain(folder: Path) -> ExplainedRun:
    """Return every round of a run, explained.

    Args:
        folder: of the run.

    Raises:
        ConfigError: its journal is damaged, or a view of it is.
    """
    journal, history = folder / "journal.sqlite", folder / "history.jsonl"
    summaries: tuple[RoundSummary, ...] = RunHistory.read(history).rounds if history.exists() else ()
    return explain_run(folder.name, read_journal(journal), read_timeline(folder / "timeline.jsonl"), summaries)


def as_json(
    run: ExplainedRun,
    *,
    round_id: int | None = None,
    device: str | None = None,
    fairness: FairnessReport | None = None,
) -> dict[str, Any]:
    """Return what `explain --json` prints: the fields of the dataclasses, with leases and refusals where asked for.

    Args:
        run: explained.
        round_id: only this round, with its leases and refused devices.
        device: only rounds that concern it, with its leases and refusals.
        fairness: instead of rounds.
    """
    head = {"run": run.run, "version": run.version, "finished_by": run.finished_by, "pauses": dict(run.pauses)}
    if fairness is not None:
        return {**head, "population": dict(run.population), "fairness": asdict(fairness)}
    rounds = []
    for each in run.rounds:
        if round_id is not None and each.round_id != round_id:
            continue
        entry = _flat(each)
        if device is not None or round_id is not None:
            entry["leases"] = [asdict(lease) for lease in each.leases if device in (None, lease.device)]
            entry["refused"] = [asdict(refusal) for refusal in each.refused if device in (None, refusal.device)]
            if device is not None and not entry["leases"] and not entry["refused"]:
                continue
        rounds.append(entry)
    return {**head, "population": dict(run.population), "rounds": rounds}


def _flat(each: ExplainedRound) -> dict[str, Any]:
    names = [field.name for field in fields(each) if field.name not in ("leases", "refused")]
    return {
        name: dict(value) if name in ("counts", "device_seconds", "failures") else value
        for name in names
        for value in (getattr(each, name),)
    }
