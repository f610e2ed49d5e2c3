"""A run as it stands when the aggregator starts: new, warm, or where its journal ends."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from safetensors.numpy import save_file
from structlog.testing import capture_logs

from aggregator.config import Settings
from aggregator.device_states import Counted, names_of
from aggregator.evaluation import TaskEvaluator
from aggregator.journal import Journal
from aggregator.model_store import ModelStore, ServerState
from aggregator.opening import OpenRun, open_run, run_name, unfinished_checks
from aggregator.part_files import PartFiles
from aggregator.phases import Phase
from aggregator.records import (
    CloseRecord,
    CommitRecord,
    ConfigRecord,
    LeaseRecord,
    Record,
    RoundRecord,
)
from aggregator.run_folder import RunFolder
from shared.blocking import Lane
from shared.chunking import ChunkLayout
from shared.errors import ConfigError
from shared.task import Arrays, Client, Evaluated
from tests.aggregator.builders import DIGEST, a_lease, an_accept, an_offer, lease_name, some_settings
from tests.integration.linear import LinearTask

T = TypeVar("T")

N_PARAMS = 8


async def at_once(lane: Lane, work: Callable[[], T]) -> T:
    """Work without threads."""
    return work()


@asynccontextmanager
async def opened(settings: Settings, *records: Record, task: LinearTask | None = None) -> AsyncIterator[OpenRun]:
    """Open a run; rows that are given are journalled before."""
    with RunFolder(settings.output.folder / run_name(settings)) as folder:
        journal = await Journal.open(folder.journal, at_once)
        try:
            if records:
                await journal.append(*records)
            evaluator = TaskEvaluator(task or LinearTask(), at_once)
            yield await open_run(settings, folder, journal, evaluator, at_once, instance="i", now=0.0, wall=lambda: 0.0)
        finally:
            await journal.close()


def an_update(value: float) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Return an update of the linear model."""
    return np.full(N_PARAMS, value, np.float32)


async def test_new_run_asks_the_task_for_its_model_by_seed(tmp_path: Path) -> None:
    """Version 0 is on disk, its configuration journalled; the same seed gives the same model, another another."""
    models = []
    for name, seed in [("one", 1), ("two", 1), ("three", 2)]:
        settings = some_settings(tmp_path / name).model_copy(update={"seed": seed})
        async with opened(settings) as run:
            models.append(run.aggregation.state.parameters.tobytes())
            assert run.store.versions() == [0]
            assert run.models == {0: run.blob.ref}
            assert [type(row) for row in run.journal.records()] == [ConfigRecord]
            assert (run.machine.phase, run.recovered.n_records) == (Phase.WAITING, 0)
    assert models[0] == models[1] != models[2]


async def test_first_model_on_a_full_disk_is_an_operators_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what could not be written, and where."""

    def full(self: ModelStore, state: ServerState) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ModelStore, "save", full)
    with pytest.raises(ConfigError, match=r"00000000.safetensors: the first model cannot be written: .*No space left"):
        async with opened(some_settings(tmp_path)):
            pass


async def test_opened_again_it_is_as_it_was(tmp_path: Path) -> None:
    """The model is the one on disk, and nothing is journalled twice."""
    settings = some_settings(tmp_path)
    async with opened(settings) as first:
        model = first.blob.ref
    async with opened(settings) as second:
        assert second.blob.ref == model
        assert len(list(second.journal.records())) == 1


async def test_opened_again_with_another_model_is_refused(tmp_path: Path) -> None:
    """A task that has changed under a run is named with the first parameter that differs."""
    settings = some_settings(tmp_path)
    async with opened(settings):
        pass
    with pytest.raises(ConfigError, match=r"padding float32\[99\] trainable only here"):
        async with opened(settings, task=LinearTask(padding=99)):
            pass


class _Clumsy(LinearTask):
    """Its evaluation does not fit its model."""

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated:
        """See `Task`."""
        raise KeyError("lime")


async def test_task_that_cannot_be_evaluated_is_refused_before_any_device_works(tmp_path: Path) -> None:
    """A mistake in the task shows at the start, and nothing of the run is left that would hide it the next time."""
    settings = some_settings(tmp_path)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"evaluate raised KeyError: 'lime'"):
            async with opened(settings, task=_Clumsy()):
                pass


async def test_metric_that_the_task_does_not_have_is_refused(tmp_path: Path) -> None:
    """A run that is to stop by a misspelt metric would never stop."""
    settings = some_settings(tmp_path, stop={"metric": "losss", "at_most": 0.1, "rounds": 3})
    with pytest.raises(ConfigError, match=r"no metric 'losss'(.|\n)*accuracy, loss"):
        async with opened(settings):
            pass


async def test_warm_start_reads_the_file(tmp_path: Path) -> None:
    """Instead of the task's own numbers; only for a new run."""
    path = tmp_path / "warm.safetensors"
    save_file({"weights": np.arange(8, dtype=np.float32)}, path)
    settings = some_settings(tmp_path, server={"init_from": path})
    async with opened(settings) as run:
        assert run.aggregation.state.parameters.tolist() == list(range(8))
    path.unlink()
    async with opened(settings) as again:
        assert again.aggregation.state.parameters.tolist() == list(range(8))


async def test_warm_start_from_a_wrong_file_is_refused(tmp_path: Path) -> None:
    """Naming the file and the parameter."""
    path = tmp_path / "warm.safetensors"
    save_file({"bias": np.zeros(8, np.float32)}, path)
    with pytest.raises(ConfigError, match="bias"):
        async with opened(some_settings(tmp_path, server={"init_from": path})):
            pass


async def test_accepted_updates_are_folded_again_in_order(tmp_path: Path) -> None:
    """Killed in mid-round: the sum is the one that was."""
    settings = some_settings(tmp_path)
    rows: list[Record] = [RoundRecord(round_id=1, into=1)]
    updates = [an_accept(an_update(v), number=i, weight=float(i)) for i, v in enumerate((0.1, 7.0, 1e-6), 1)]
    rows += [a_lease(i, f"d{i}") for i in (1, 2, 3)]
    async with opened(settings):
        pass
    async with opened(settings, *rows, *updates) as run:
        assert run.machine.phase is Phase.REPORTING
        resumed = await run.aggregation.make(1, 1, updates)
    async with opened(some_settings(tmp_path / "other")) as fresh:
        for update in updates:
            await fresh.aggregation.fold(update)
        expected = await fresh.aggregation.make(1, 1, updates)
    assert resumed.parameters.tobytes() == expected.parameters.tobytes()


async def test_committed_version_is_the_one_that_counts(tmp_path: Path) -> None:
    """A version file without its row is a version that was not committed: it is made again."""
    settings = some_settings(tmp_path)
    async with opened(settings) as run:
        for version in (1, 2):
            await run.aggregation.fold(an_accept(an_update(1.0), number=version, into=version))
            await run.aggregation.write(await run.aggregation.make(version, version, [an_accept(number=version)]))
    rows: list[Record] = [CloseRecord(into=1, last_seq=0), CommitRecord(version=1, round_id=1, digest=DIGEST)]
    async with opened(settings, *rows, CloseRecord(into=2, last_seq=0)) as again:
        assert (again.machine.version, again.machine.phase) == (1, Phase.AGGREGATING)
        assert again.aggregation.state.version == 1
        assert set(again.models) == {0, 1}
        assert again.blob.ref == again.models[1]


def store_update(files: PartFiles, number: int, *, is_whole: bool) -> None:
    """Put an update into the folder, finished or not."""
    update = an_update(1.0).tobytes()
    files.begin(an_offer(update, lease_name(number)))
    if is_whole:
        files.write(lease_name(number), [(0, bytes(ChunkLayout(len(update), 4096).cut(update, 0)))])
        files.finish(lease_name(number))


async def test_files_that_nobody_needs_are_deleted(tmp_path: Path) -> None:
    """Those of open leases and of accepted updates stay; the whole one without a decision is checked again."""
    settings = some_settings(tmp_path)
    async with opened(settings) as run:
        for number, is_whole in [(1, True), (2, True), (3, False), (8, True), (9, False)]:
            store_update(run.part_files, number, is_whole=is_whole)
    data = an_update(1.0).tobytes()
    stored = replace(an_accept(an_update(1.0), number=1), data=None)
    leases: list[LeaseRecord] = [a_lease(i, f"d{i}") for i in (1, 2, 3)]
    async with opened(settings, RoundRecord(round_id=1, into=1), *leases, stored) as again:
        assert again.part_files.finished() == [lease_name(1), lease_name(2)]
        assert again.part_files.unfinished() == [lease_name(3)]
        assert unfinished_checks(again) == [lease_name(2)]
        assert bytes(again.part_files.open(lease_name(1)).data) == data


async def test_changed_settings_are_journalled_and_said(tmp_path: Path) -> None:
    """What changed, from what to what, and from when on it holds; the same settings say nothing."""
    async with opened(some_settings(tmp_path)):
        pass
    changed = some_settings(tmp_path, training={"learning_rate": 0.5}, round={"report_goal": 5})
    with capture_logs() as logs:
        async with opened(changed) as run:
            assert run.machine.settings.round.report_goal == 5
    (said,) = [each for each in logs if each["event"] == "settings_changed"]
    assert said["changes"] == {
        "round.report_goal": "4 -> 5 (at once)",
        "training.learning_rate": "0.1 -> 0.5 (in work that is given out from now on)",
    }
    assert (said["building_version"], said["open_leases_keep_the_old"], said["accepted_with_the_old"]) == (1, 0, 0)
    with capture_logs() as logs:
        async with opened(changed) as run:
            assert len(list(run.journal.records())) == 2
    assert not [each for each in logs if each["event"] == "settings_changed"]


async def test_one_bit_that_does_not_average_out_is_said_once(tmp_path: Path) -> None:
    """With the settings that ask for it, and not at each start."""
    settings = some_settings(tmp_path, training={"codec": "one-bit"})
    for expected in (1, 0):
        with capture_logs() as logs:
            async with opened(settings):
                pass
        assert sum(each["event"] == "one_bit_does_not_average_out" for each in logs) == expected


async def test_update_limit_under_the_model_is_refused(tmp_path: Path) -> None:
    """Nobody could report: said before anything starts, with the number that would do."""
    with pytest.raises(ConfigError, match="32 bytes") as caught:
        async with opened(some_settings(tmp_path, transfer={"max_update_bytes": 31})):
            pass
    assert "max_update_bytes = 31" in str(caught.value)


async def test_missing_version_is_named(tmp_path: Path) -> None:
    """Somebody tidied the folder: the journal says version 1, and there is none."""
    settings = some_settings(tmp_path)
    rows: list[Record] = [CloseRecord(into=1, last_seq=0), CommitRecord(version=1, round_id=1, digest=DIGEST)]
    async with opened(settings):
        pass
    with pytest.raises(ConfigError, match="no such version"):
        async with opened(settings, *rows):
            pass
    for path in ModelStore(tmp_path / run_name(settings) / "versions").folder.iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="no such version"):
        async with opened(settings):
            pass


@pytest.mark.parametrize(
    ("task", "start"), [("examples.digits:task", "digits-2"), ("a.B_c:x", "b_c-2"), ("ünïcode:x", "-n-code"[1:])]
)
def test_run_without_a_name_is_called_after_its_task_and_the_date(task: str, start: str) -> None:
    """A name that topics and folders allow."""
    settings = some_settings().model_copy(update={"run": None, "task": task})
    name = run_name(settings)
    assert name.startswith(start)
    assert name.rpartition("-")[2].isdigit()
    Settings.model_validate({**settings.model_dump(), "run": name})
    assert run_name(some_settings()) == "test"


SCAFFOLD: dict[str, Any] = {"algorithm": "scaffold"}


async def test_first_model_of_scaffold_has_zeros_behind_it(tmp_path: Path) -> None:
    """As many as there are trainables; the task's own part is as ever, warm or not."""
    async with opened(some_settings(tmp_path / "plain")) as plain:
        own = plain.aggregation.state
    weights = np.arange(N_PARAMS, dtype=np.float32)
    save_file({"weights": weights}, tmp_path / "warm.safetensors")
    for name, server in (("cold", {}), ("warm", {"init_from": tmp_path / "warm.safetensors"})):
        async with opened(some_settings(tmp_path / name, training=SCAFFOLD, server=server)) as run:
            state = run.aggregation.state
        parameters, spec = state.model
        assert spec == own.spec
        assert np.array_equal(parameters, weights if server else own.parameters)
        assert state.parameters[N_PARAMS:].tolist() == [0.0] * N_PARAMS
        assert state.optimizer["algorithm/sum"].tolist() == [0.0] * N_PARAMS
        assert run.blob.index.size == 2 * own.parameters.nbytes
        async with opened(some_settings(tmp_path / name, training=SCAFFOLD, server=server)) as again:
            assert again.blob.ref == run.blob.ref


async def test_version_file_says_whose_state_is_which(tmp_path: Path) -> None:
    """Whatever rows are left: what lies with the sum belongs to the sum."""
    settings = some_settings(tmp_path, training={"algorithm": "feddyn", "alpha": 0.5})
    async with opened(settings) as run:
        state = replace(run.aggregation.state, version=1, round_id=1)
        counted = names_of(state.optimizer, [Counted("d1", lease_name(7), True)])
        run.store.save(replace(state, optimizer={**state.optimizer, **counted}))
        await run.journal.append(
            RoundRecord(round_id=1, into=1),
            a_lease(1, "d1"),
            an_accept(an_update(1.0)),
            CloseRecord(into=1, last_seq=1),
            CommitRecord(version=1, round_id=1, digest=DIGEST),
        )
    async with opened(settings) as run:
        assert run.machine.tally.states.of("d1") == lease_name(7)
        assert run.machine.tally.states.of("d2") is None
