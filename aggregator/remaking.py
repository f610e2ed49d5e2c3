"""The newest version, made again when its file is lost: from accepted updates, or from a model that was exported.

What is made counts as that version only when it has, to the bit, the digest that the journal names.

Not here: when this is needed, and what becomes of a run whose version cannot be made again (`damage.py`).
"""

import asyncio
from pathlib import Path

from aggregator.aggregation import Aggregation
from aggregator.config import Settings
from aggregator.model_store import ModelStore, ServerState, warm_start
from aggregator.part_files import PartFiles
from aggregator.publishing import model_blob
from aggregator.records import AcceptRecord, CommitRecord, VoidRecord
from aggregator.standing import Standing
from shared.blocking import at_once
from shared.errors import ConfigError, FederationError

__all__ = ["from_export", "from_updates", "is_gone"]


def is_gone(part_files: PartFiles, record: AcceptRecord) -> bool:
    """Return whether the file of an accepted update is missing or damaged."""
    return part_files.fault(record.lease, size=record.size, sha256=record.sha256) is not None


def from_updates(whole: int, standing: Standing, store: ModelStore, part_files: PartFiles) -> list[ServerState]:
    """Return the versions after a whole one, made from their updates; [] when one is gone, or a bit is another."""
    state = store.load(whole)
    counted: dict[int, dict[str, AcceptRecord]] = {}
    for _, record in standing.records():
        match record:
            case AcceptRecord(into=into) if into > whole:
                counted.setdefault(into, {})[record.lease] = record
            case VoidRecord(into=into, lease=None):
                counted.pop(into, None)
            case VoidRecord(into=into, lease=str(lease)):
                counted.get(into, {}).pop(lease, None)
    made: list[ServerState] = []
    for version in range(whole + 1, standing.machine.version + 1):
        commit, settings = standing.commits[version]
        updates = list(counted.get(version, {}).values())
        if any(each.data is None and is_gone(part_files, each) for each in updates):
            return []
        try:
            aggregation = Aggregation(settings, state, part_files, store, at_once)
            state = asyncio.run(aggregation.make(version, commit.round_id, updates))
        except FederationError:
            return []
        if not _is(state, commit, settings):
            return []
        made.append(state)
    return made


def from_export(path: Path, whole: int, standing: Standing, store: ModelStore) -> ServerState | None:
    """Return the newest version from a model that was written for its user; None when that is another.

    What a server optimizer keeps is not in such a file: only `sgd`, which keeps nothing, is gone on with like this.

    Args:
        path: of the model.
        whole: an earlier version, which has the same parameters by name.
        standing: of the run.
        store: of its versions.
    """
    before, (commit, settings) = store.load(whole), standing.commits[standing.machine.version]
    made_before = standing.commits.get(whole)
    is_same = made_before is not None and made_before[1].server.optimizer == settings.server.optimizer
    if not is_same or before.optimizer or settings.server.optimizer.name != "sgd":
        return None
    try:
        parameters, constants = warm_start(path, before.spec, before.constants)
    except ConfigError:
        return None
    state = ServerState(
        version=commit.version,
        round_id=commit.round_id,
        spec=before.spec,
        parameters=parameters,
        constants=constants,
    )
    return state if _is(state, commit, settings) else None


def _is(state: ServerState, commit: CommitRecord, settings: Settings) -> bool:
    """Return whether this is the version that was committed."""
    blob = model_blob(state.parameters, state.spec, state.version, settings.transfer.chunk_bytes)
    return blob.ref.digest == commit.digest
