"""A run as it stands when the aggregator starts: from its folder and its settings to rooms that are ready to work.

A new run gets its first model from the task, or from the file of a warm start. A run of the same name goes on: its
journal is read back, what was accepted for the version being built is folded again, in the same order, to the same
bits.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import structlog

from aggregator.aggregation import Aggregation
from aggregator.codec_choice import CodecChoice, one_bit_doubt, sizes_of
from aggregator.config import Settings
from aggregator.evaluation import Evaluator, central_metrics
from aggregator.journal import Journal, read_journal
from aggregator.journal_scan import repair_hint
from aggregator.leases import LeaseState
from aggregator.lost_journal import refuse_lost_journal
from aggregator.model_store import ModelStore, ServerState, warm_start
from aggregator.part_files import PartFiles
from aggregator.past_models import PastModels, chunk_sizes
from aggregator.plug_ins import PlugIns, load_plug_ins
from aggregator.publishing import ModelBlob
from aggregator.records import CommitRecord, ConfigRecord, Record
from aggregator.recovery import Recovered, recover
from aggregator.round_machine import RoundMachine
from aggregator.run_folder import RunFolder
from aggregator.selection import seed_of
from aggregator.server_algorithm import algorithm_of
from aggregator.settings_change import changed, is_in_given_work, refuse_fixed
from shared.algorithms import extended
from shared.blocking import Lane, RunBlocking
from shared.config import settings_digest, settings_json
from shared.errors import ConfigError
from shared.messages import Kind, ModelRef
from shared.parameters import ParameterSpec, constants_of
from shared.task import Initial

__all__ = ["OpenRun", "first_state", "open_run", "resumption", "run_name", "unfinished_checks"]

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class OpenRun:
    """Everything of one run."""

    settings: Settings
    run: str
    folder: RunFolder
    journal: Journal
    machine: RoundMachine
    recovered: Recovered
    store: ModelStore
    part_files: PartFiles
    aggregation: Aggregation
    blob: ModelBlob
    """Of the committed version."""
    models: dict[int, ModelRef]
    """Every version that may still be on the broker."""
    outdated: list[ModelRef]
    """The same versions as they were cut before, when the size of chunks has changed since."""


def run_name(settings: Settings) -> str:
    """Return the run's name: as set, else from the task and the date."""
    if settings.run is not None:
        return settings.run
    module = settings.task.partition(":")[0].rpartition(".")[2].lower()
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in module).strip("-_") or "run"
    return f"{stem[:50]}-{datetime.now().astimezone():%Y%m%d}"


async def open_run(
    settings: Settings,
    folder: RunFolder,
    journal: Journal,
    evaluator: Evaluator,
    run_blocking: RunBlocking,
    *,
    instance: str,
    now: float,
    wall: Callable[[], float] = time.time,
    plug_ins: PlugIns | None = None,
) -> OpenRun:
    """Open a run, new or not.

    Args:
        settings: of the run.
        folder: locked.
        journal: open.
        evaluator: asked for the first model, once a run.
        run_blocking: the seam to threads.
        instance: random name of this process.
        now: seconds, the clock of the round machine.
        wall: Unix time.
        plug_ins: what the settings name; None: it is loaded, what is a user's own from the current folder.

    Raises:
        ConfigError: the task's model, a warm start, the journal, a version file or the file of an accepted update
            cannot be used, or a setting changed that cannot.
    """
    plug_ins = plug_ins or load_plug_ins(settings, Path.cwd())
    run = run_name(settings)
    store, part_files = ModelStore(folder.versions), PartFiles(folder.updates)
    records = await run_blocking(Lane.DISK, lambda: list(journal.records()))
    committed = max((record.version for record in records if isinstance(record, CommitRecord)), default=0)
    if records:
        _refuse_fixed(settings, records, folder)
    else:
        refuse_lost_journal(folder.path, is_empty=True)
        if not store.versions():
            first = await first_state(settings, evaluator)
            try:
                await run_blocking(Lane.DISK, partial(store.save, first))
            except OSError as error:
                raise ConfigError(
                    f"the first model cannot be written: {error}",
                    where=str(store.path(0)),
                    hint="make room, then start it again",
                ) from error
    load = partial(_load, store, folder)
    spec = (await run_blocking(Lane.DISK, partial(load, committed))).spec
    if records:
        await _check_spec(settings, evaluator, spec, folder)
    update_bytes = sizes_of(spec)
    codecs = CodecChoice(settings, update_bytes)
    if codecs.largest_bytes < codecs.usual_bytes:
        raise ConfigError(
            f"an update of this model has {codecs.usual_bytes} bytes as {codecs.usual.name}",
            where=f"transfer.max_update_bytes = {codecs.largest_bytes}",
            hint="raise it, leave it out, or choose another codec",
        )
    machine = RoundMachine(settings, update_bytes=update_bytes, lease_prefix=f"{run}/{instance}", rule=plug_ins.rule)
    machine.invitations.rates = plug_ins.rates
    recovered = recover(machine, records, journal.clock(), now, wall())
    state = await run_blocking(Lane.DISK, partial(load, machine.version))
    machine.tally.states.adopt(state.optimizer)
    await run_blocking(Lane.DISK, partial(_check_updates, machine, part_files, folder))
    aggregation = Aggregation(
        settings,
        state,
        part_files,
        store,
        run_blocking,
        plug_ins.optimizer,
        plug_ins.rates,
        plug_ins.over_cohort,
    )
    for record in machine.tally.accepted():
        await aggregation.fold(record)
    await _note_settings(settings, journal, recovered, machine)
    await run_blocking(Lane.DISK, partial(_tidy, machine, part_files))
    versions = [version for version in store.versions() if version <= machine.version]
    sizes = chunk_sizes(records, settings.transfer.chunk_bytes)
    past = await run_blocking(Lane.COMPUTE, partial(PastModels, partial(_loaded, state, load), versions, sizes))
    if records:
        log.info("run_resumed", run=run, round=machine.round_id, version=machine.version, phase=str(machine.phase))
    return OpenRun(
        settings=settings,
        run=run,
        folder=folder,
        journal=journal,
        machine=machine,
        recovered=recovered,
        store=store,
        part_files=part_files,
        aggregation=aggregation,
        blob=past.newest,
        models=past.models,
        outdated=past.outdated,
    )


def resumption(settings: Settings) -> dict[str, str]:
    """Return what a start would go on with, and what its settings would change; {} when the run is new. For people.

    Raises:
        ConfigError: the journal is damaged, or a setting changed that cannot.
    """
    path = settings.output.folder / run_name(settings) / "journal.sqlite"
    version, old = 0, None
    for record in read_journal(path) if path.exists() else ():
        match record:
            case CommitRecord():
                version = record.version
            case ConfigRecord():
                old = record
    if old is None:
        return {}
    before, after = json.loads(old.settings), json.loads(settings_json(settings))
    refuse_fixed(before, after, where=str(path.parent))
    changes = changed(before, after, building=version + 1)
    return {
        "goes_on_at_version": str(version),
        "settings_changed": "; ".join(f"{key}: {change}" for key, change in changes.items()) or "no",
    }


def _loaded(state: ServerState, load: Callable[[int], ServerState], version: int) -> ServerState:
    """Return a version; the current one is in memory once."""
    return state if version == state.version else load(version)


async def first_state(settings: Settings, evaluator: Evaluator) -> ServerState:
    """Return version 0: the task's own model, or that of a warm start, evaluated once.

    Raises:
        ConfigError: the task or the file cannot be used.
    """
    initial = await _initial(settings, evaluator)
    spec, constants = ParameterSpec.of(initial), constants_of(initial)
    vector = spec.flatten(initial.parameters)
    if settings.server.init_from is not None:
        vector, found = warm_start(settings.server.init_from, spec, constants)
        constants = found
    training = settings.training
    more = extended(spec, training.algorithm)
    state = ServerState(
        version=0,
        round_id=0,
        spec=more,
        parameters=np.concatenate([vector, np.zeros(more.n_params - spec.n_params, np.float32)]),
        optimizer=algorithm_of(training.algorithm, alpha=training.alpha).init(more),
        constants=constants,
    )
    await _try_evaluation(settings, evaluator, state)
    return state


async def _initial(settings: Settings, evaluator: Evaluator) -> Initial:
    return await evaluator.initial(seed_of(settings.seed, "model") % 2**31)


async def _check_spec(settings: Settings, evaluator: Evaluator, spec: ParameterSpec, folder: RunFolder) -> None:
    """Refuse to go on with a task whose model is no longer the run's."""
    difference = ParameterSpec.of(await _initial(settings, evaluator)).difference(spec.own)
    if difference:
        raise ConfigError(
            f"the task yields another model than this run has: {difference}",
            where=f"{settings.task}, {folder.path}",
            hint="give the new model a run name of its own, or bring the old task back",
        )


async def _try_evaluation(settings: Settings, evaluator: Evaluator, state: ServerState) -> None:
    """Evaluate the first model, where central evaluation is wanted: a mistake shows before any device works.

    Raises:
        ConfigError: the task raised, or has not the metric that is to stop the run.
    """
    if not settings.evaluation.central_every:
        return
    evaluated = await evaluator.evaluate(*state.model, state.constants)
    metrics = {} if evaluated is None else central_metrics(evaluated)
    stop = settings.stop
    needs_metric = stop.at_least is not None or stop.at_most is not None or stop.patience is not None
    if needs_metric and stop.metric not in metrics and (metrics or not settings.evaluation.federated_every):
        raise ConfigError(
            f"central evaluation has no metric {stop.metric!r} for the run to stop by",
            where=f"stop.metric = {stop.metric}",
            hint=f"it has: {', '.join(sorted(metrics)) or 'none, for the task has no data without a client'}",
        )
    if settings.output.keep_best and metrics and stop.metric not in metrics:
        log.warning(
            "no_best_model", missing=stop.metric, metrics=sorted(metrics), hint="set stop.metric to one of them"
        )


async def _note_settings(settings: Settings, journal: Journal, recovered: Recovered, machine: RoundMachine) -> None:
    """Journal the configuration when it is new, and say what changed, and what of it holds from when on."""
    digest, building = settings_digest(settings), machine.version + 1
    old = recovered.config
    if old is not None and old.digest == digest:
        return
    if old is not None:
        changes = changed(json.loads(old.settings), json.loads(settings_json(settings)), building=building)
        facts: dict[str, object] = {}
        if any(is_in_given_work(key, settings.training.algorithm) for key in changes):
            facts = {
                "open_leases_keep_the_old": sum(1 for _ in machine.leases.open(Kind.TRAIN)),
                "accepted_with_the_old": machine.tally.n_accepted,
            }
        log.warning("settings_changed", changes=changes, building_version=building, **facts)
    if (cause := one_bit_doubt(settings)) is not None:
        log.warning("one_bit_does_not_average_out", cause=cause, hint='training.codec = "auto", or "int8"')
    await journal.append(ConfigRecord(digest=digest, settings=settings_json(settings), from_version=building))


def _refuse_fixed(settings: Settings, records: Sequence[Record], folder: RunFolder) -> None:
    """Refuse a change of what a run cannot change; an old change that was reverted is none."""
    old = next((record for record in reversed(records) if isinstance(record, ConfigRecord)), None)
    if old is not None:
        refuse_fixed(json.loads(old.settings), json.loads(settings_json(settings)), where=str(folder.path))


def _load(store: ModelStore, folder: RunFolder, version: int) -> ServerState:
    """Return a version of the run, or say what to do about it."""
    try:
        return store.load(version)
    except ConfigError as error:
        raise ConfigError(error.what, where=error.where, hint=f"{error.hint}; {repair_hint(folder.path)}") from error


def _check_updates(machine: RoundMachine, part_files: PartFiles, folder: RunFolder) -> None:
    """Hold the file of each accepted update against its row: what it yields must be what was accepted."""
    for record in machine.tally.accepted():
        if record.data is not None:
            continue
        fault = part_files.fault(record.lease, size=record.size, sha256=record.sha256)
        if fault is not None:
            raise ConfigError(
                f"the update of {record.device} that was accepted for version {record.into} {fault}",
                where=str(part_files.path(record.lease)),
                hint=repair_hint(folder.path),
            )


def _tidy(machine: RoundMachine, part_files: PartFiles) -> None:
    """Delete what no open lease and no accepted update needs any more."""
    needed = {record.lease for record in machine.tally.accepted()} | {
        lease.record.lease for lease in machine.leases.open()
    }
    for name in {*part_files.finished(), *part_files.unfinished()} - needed:
        part_files.delete(name)


def unfinished_checks(opened: OpenRun) -> list[str]:
    """Return the leases whose whole update is on disk without a decision: they are admitted again."""
    leases = opened.machine.leases
    return [
        name
        for name in opened.part_files.finished()
        if (lease := leases.get(name)) is not None and lease.state in (LeaseState.OUTSTANDING, LeaseState.EXPIRED)
    ]
