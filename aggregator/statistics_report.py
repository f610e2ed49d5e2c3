"""What a run of a `StatisticsTask` found: its newest version, read together with the journal.

The version is a mean over devices; the journal says over which, and whether each counted alike: once, in time, and as
much as any other. Where one did not, the sums are not those of the devices' rows, and nothing is shown.

Not here: the mathematics (`shared/statistics_task.py`), how it is shown (`statistics_table.py`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aggregator.explain import folder_of
from aggregator.journal import read_journal
from aggregator.model_store import ModelStore
from aggregator.records import AcceptRecord, CommitRecord, ConfigRecord, VoidRecord
from shared.errors import ConfigError
from shared.parameters import ParameterSpec
from shared.statistics_task import FleetStatistics, StatisticsTask
from shared.task import load_task

__all__ = ["StatisticsReport", "read_statistics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsReport:
    """What is printed.

    Args:
        run: its name.
        version: that was read, the last committed one.
        round_id: that made it.
        statistics: of the devices that counted for it.
    """

    run: str
    version: int
    round_id: int
    statistics: FleetStatistics


def read_statistics(run: Path) -> StatisticsReport:
    """Read the newest statistics of a run; also while it is served, for this only reads.

    Args:
        run: its TOML, or its folder; the task's module is looked for beside the former and in the current folder.

    Raises:
        ConfigError: there is no such run or no version yet, its task is another kind, or its newest version is not the
            mean of devices that each counted alike.
    """
    folder = folder_of(run)
    counted: dict[int, dict[str, AcceptRecord]] = {}
    committed, task_name, rule, version_rule = None, "", "mean", "mean"
    for record in read_journal(folder / "journal.sqlite"):
        match record:
            case ConfigRecord():
                settings = json.loads(record.settings)
                task_name, rule = settings["task"], settings["server"]["rule"]["name"]
            case AcceptRecord(into=into):
                counted.setdefault(into, {})[record.lease] = record
            case VoidRecord(into=into, lease=None):
                counted.pop(into, None)
            case VoidRecord(into=into, lease=str(lease)):
                counted.get(into, {}).pop(lease, None)
            case CommitRecord():
                committed, version_rule = record, rule
    task = load_task(task_name, Path.cwd() if run.is_dir() else run.parent)
    if not isinstance(task, StatisticsTask):
        raise ConfigError(f"task {task_name!r} is a {type(task).__name__}, no StatisticsTask", where=str(folder))
    if committed is None or not committed.version:
        raise ConfigError("no round has ended yet", where=str(folder), hint=f"python -m aggregator explain {run}")
    version, records = committed.version, list(counted.get(committed.version, {}).values())
    where = f"{folder}, version {version}"
    if version_rule != "mean":
        raise ConfigError(
            f"it was made by the rule {version_rule}, which leaves out what is unusual: its numbers are no sums",
            where=where,
            hint='statistics need server.rule = "mean"; the next version that has it is exact again',
        )
    _refuse_unequal(records, version, where=where)
    state = ModelStore(folder / "versions").load(version)
    spec = ParameterSpec.of(task.initial_parameters(0))
    if state.spec.digest != spec.digest:
        what = f"the task defines other columns than the run has: {spec.difference(state.spec)}"
        raise ConfigError(what, where=f"{folder}, task {task_name}", hint="use the task's file as it was")
    statistics = task.statistics(spec.unflatten(state.parameters), version=version, n_devices=len(records))
    return StatisticsReport(run=folder.name, version=version, round_id=committed.round_id, statistics=statistics)


def _refuse_unequal(records: Sequence[AcceptRecord], version: int, *, where: str) -> None:
    """Refuse a version in which a device counted for more, less, or something other than its own rows.

    None counts twice: the journal has at most one update of a device and base version.
    """
    faults = {
        "late, with sums around another mean": (
            [record.device for record in records if record.base_version != version - 1],
            'round.max_staleness = 0, as in round.mode = "sync"',
        ),
        "with another weight than 1": (
            [record.device for record in records if record.weight * record.clip_scale * record.discount != 1],
            'server.reweight = "off" and no bound that scales updates down',
        ),
        "with a codec that rounds": (
            [record.device for record in records if record.codec != "float32"],
            'training.codec = "float32"',
        ),
    }
    for how, (whose, needed) in faults.items():
        if whose:
            raise ConfigError(
                f"{len(whose)} of {len(records)} devices counted {how}, such as {whose[0]}",
                where=where,
                hint=f"statistics need {needed}; the next version that has it is exact again",
            )
