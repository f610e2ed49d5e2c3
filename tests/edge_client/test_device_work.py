import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import structlog

from edge_client.config import EdgeSettings
from edge_client.device_work import DeviceWork, spec_of
from edge_client.events import Settle
from shared.blocking import Lane
from shared.errors import ConfigError, InvalidState, Reason
from shared.messages import Outcome, Reported, WorkOrder
from shared.parameters import ParameterSpec
from shared.task import Arrays, Client, ClientId, Initial, Trained, Work
from tests.edge_client.builders import an_order, lease
from tests.edge_client.tasks import AddOne, Scripted
from tests.edge_client.test_model_cache import Published

T = TypeVar("T")


class Direct:
    """`RunBlocking` that computes on the spot."""

    async def __call__(self, lane: Lane, work: Callable[[], T]) -> T:
        """See `RunBlocking`."""
        return work()


async def opened(folder: Path, task: AddOne | None = None) -> DeviceWork:
    """The work of a device after a start, with a model of 5000 ones in its cache."""
    client = Client(id=ClientId("pi"))
    work = DeviceWork(EdgeSettings(folder=folder), task or AddOne(5000), client, Direct(), lambda: 0.0)
    await work.open(None)
    model = Published()
    model.fill(await work.model(model.ref))
    return work


ORDER = an_order(1).model_copy(update={"model": Published().ref})


async def test_work_ends_in_the_outbox(tmp_path: Path) -> None:
    """Fetched, trained, encoded, durable: the next start finds it."""
    work = await opened(tmp_path)
    assert await work.work(ORDER) == []
    (held,) = (await opened(tmp_path)).held()
    assert (held.lease, held.run, held.round, held.version) == (lease(1), "run-1", 1, 0)


async def test_cancelled_work_leaves_nothing(tmp_path: Path) -> None:
    """Cancelled from within: no report, and the next work is not touched by it."""

    def train(parameters: Arrays, order: Work) -> Trained:
        if order.seed == 1:
            work.cancel(lease(1))
            assert work.fraction(lease(1)) == 0.0
        order.progress(1, 2)
        return Trained(parameters=parameters, num_examples=1, n_steps=1)

    work = await opened(tmp_path, Scripted(5000, script=train))
    assert await work.work(ORDER) is None
    assert work.held() == []
    assert work.fraction(lease(1)) is None
    assert ORDER.work is not None
    second = ORDER.model_copy(update={"lease": lease(2), "work": ORDER.work.model_copy(update={"seed": 2})})
    assert await work.work(second) == []


async def test_lease_that_is_given_again_while_its_cancelled_work_ends_is_worked_on(tmp_path: Path) -> None:
    """Both work under one name for a moment; the end of the first takes nothing from the second."""
    both = asyncio.Barrier(2)

    class Slow(Direct):
        async def __call__(self, lane: Lane, work: Callable[[], T]) -> T:
            if lane is Lane.TRAINING:
                await both.wait()
            return work()

    await opened(tmp_path)
    work = DeviceWork(EdgeSettings(folder=tmp_path), AddOne(5000), Client(id=ClientId("pi")), Slow(), lambda: 0.0)
    await work.open(ParameterSpec.of(AddOne(5000).initial_parameters(0)))
    async with asyncio.TaskGroup() as group:
        first = group.create_task(work.work(ORDER))
        await asyncio.sleep(0)
        work.cancel(lease(1))
        second = group.create_task(work.work(ORDER))
    assert (first.result(), second.result()) == (None, [])
    assert work.fraction(lease(1)) is None


@pytest.mark.parametrize(("outcome", "count"), [(Outcome.ACCEPTED, 1.0), (Outcome.REJECTED, None)])
async def test_outcome_decides_about_the_state(tmp_path: Path, outcome: Outcome, count: float | None) -> None:
    """Accepted state is what the next work is given, and the outbox is empty."""
    task = AddOne(5000, state=True)
    work = await opened(tmp_path, task)
    await work.work(ORDER)
    await work.settle(Settle(lease=lease(1), outcome=outcome))
    assert work.held() == []
    assert work.outbox.finals == [lease(1)]
    await work.work(ORDER.model_copy(update={"lease": lease(2)}))
    state = task.seen[1].state
    assert (float(state["count"]) if "count" in state else None) == count


@pytest.mark.parametrize(
    ("outcome", "reason", "level"),
    [
        (Outcome.REJECTED, Reason.DIGEST, "warning"),
        (Outcome.DISCARDED, Reason.GOAL_MET, "info"),
        (Outcome.CANCELLED, Reason.COMMITTED, "info"),
    ],
)
async def test_update_that_does_not_count_is_told_of_in_one_line(
    tmp_path: Path, outcome: Outcome, reason: Reason, level: str
) -> None:
    """Outcome, reason and detail together, whatever the outcome."""
    work = await opened(tmp_path)
    await work.work(ORDER)
    with structlog.testing.capture_logs() as logs:
        await work.settle(Settle(lease=lease(1), outcome=outcome, reason=reason, detail="so it is"))
    (line,) = logs
    assert (line["log_level"], line["event"], line["lease"]) == (level, "report_settled", lease(1))
    assert (line["outcome"], line["reason"], line["detail"]) == (outcome, reason, "so it is")


async def test_chunk_size_and_epoch_are_remembered(tmp_path: Path) -> None:
    """A link that was bad yesterday is not tried with large chunks today, and yesterday's epoch still holds."""
    work = await opened(tmp_path)
    assert (work.saved_chunk_bytes, work.saved_epoch) == (None, None)
    await work.save_chunk_bytes(8192)
    await work.save_epoch(7)
    again = await opened(tmp_path)
    assert (again.saved_chunk_bytes, again.saved_epoch) == (8192, 7)


async def test_first_offer_is_the_first_of_any_life(tmp_path: Path) -> None:
    """What an earlier life may have offered keeps its chunk size."""
    work = await opened(tmp_path)
    await work.work(ORDER)
    assert [work.is_first_offer(lease(1)), work.is_first_offer(lease(1))] == [True, False]
    assert not (await opened(tmp_path)).is_first_offer(lease(1))


def test_spec_of_a_broken_task_names_the_cause() -> None:
    """Whatever a user's task raises or returns becomes a setting to correct."""

    class Broken(AddOne):
        def initial_parameters(self, seed: int) -> Initial:
            raise KeyError("weights")

    class Empty(AddOne):
        def initial_parameters(self, seed: int) -> Initial:
            return Initial({})

    with pytest.raises(ConfigError, match="KeyError: 'weights'"):
        spec_of(Broken())
    with pytest.raises(ConfigError, match="no floating parameter"):
        spec_of(Empty())
    assert spec_of(AddOne(3)) == ParameterSpec.of(AddOne(3).initial_parameters(0))


def test_unopened_work_has_no_spec(tmp_path: Path) -> None:
    """Asking before `open` is a bug of ours."""
    client = Client(id=ClientId("pi"))
    with pytest.raises(InvalidState):
        _ = DeviceWork(EdgeSettings(folder=tmp_path), AddOne(), client, Direct()).spec


async def test_disk_that_does_not_do_as_it_is_told_does_not_end_the_device(tmp_path: Path) -> None:
    """State that cannot become current and a report that cannot be deleted: the outcome is final all the same."""
    work = await opened(tmp_path, AddOne(5000, state=True))
    await work.work(ORDER)
    folder = EdgeSettings(folder=tmp_path).state_folder(ClientId("pi"))
    (folder / "state" / f"{ORDER.run}.safetensors" / "in the way").mkdir(parents=True)
    report = folder / "outbox" / f"{lease(1)}.report"
    report.unlink()
    report.mkdir()
    await work.settle(Settle(lease=lease(1), outcome=Outcome.ACCEPTED))
    assert work.held() == []
    assert work.outbox.finals == [lease(1)]
    assert await work.work(ORDER.model_copy(update={"lease": lease(2)})) == []


class PowerCut(BaseException):
    """Nothing of this process goes on."""


@pytest.mark.parametrize("step", ["accept", "conclude"])
async def test_outcome_moves_the_state_once_wherever_the_power_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Killed before the state is current, or after it and before the report is deleted: the repeat finishes it."""
    task = AddOne(5000, state=True)
    accepted = Settle(lease=lease(1), outcome=Outcome.ACCEPTED)
    work = await opened(tmp_path, task)
    await work.work(ORDER)
    room = {"accept": work._state, "conclude": work.outbox}[step]

    def die(_: str) -> None:
        raise PowerCut

    monkeypatch.setattr(room, step, die)
    with pytest.raises(PowerCut):
        await work.settle(accepted)

    again = await opened(tmp_path, task)
    assert [held.lease for held in again.held()] == [lease(1)]  # so it is offered, and the outcome comes again
    await again.settle(accepted)
    await again.settle(accepted)
    assert again.held() == []
    await again.work(ORDER.model_copy(update={"lease": lease(2)}))
    assert int(task.seen[-1].state["count"]) == 1


def suffixes_below(folder: Path) -> list[str]:
    """What kinds of states a device keeps."""
    return sorted(path.suffix for path in folder.rglob("state/*"))


@pytest.mark.parametrize("keeps_state", [True, False])
async def test_device_that_may_keep_nothing_keeps_nothing(tmp_path: Path, keeps_state: bool) -> None:
    """Neither the task's state nor the algorithm's; and work that needs some fails by name."""
    task, settings = AddOne(5000, state=True), EdgeSettings(folder=tmp_path, keeps_state=keeps_state)
    work = DeviceWork(settings, task, Client(id=ClientId("pi")), Direct(), lambda: 0.0)
    await work.open(None)
    model = Published()
    model.fill(await work.model(model.ref))
    feddyn = WorkOrder(seed=1, algorithm="feddyn", epochs=1, learning_rate=0.1, alpha=0.5)
    for number, order in ((1, ORDER.work), (2, feddyn), (3, feddyn.model_copy(update={"state_of": lease(2)}))):
        await work.work(ORDER.model_copy(update={"lease": lease(number), "work": order}))
        await work.settle(Settle(lease=lease(number), outcome=Outcome.ACCEPTED))
    assert [dict(each.state) for each in task.seen] == ([{}, {"count": 1}, {"count": 2}] if keeps_state else [{}])
    assert [len(each.correction) for each in task.seen] == ([0, 1, 1] if keeps_state else [0])
    assert suffixes_below(tmp_path) == ([".algorithm", ".algorithm", ".state"] if keeps_state else [])


@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize("keeps_state", [True, False])
async def test_task_that_keeps_something_fails_by_name_where_nothing_is_kept(
    tmp_path: Path, keeps_state: bool, is_kept: bool
) -> None:
    """A personal head would be thrown away round after round, in silence; a task without state trains anywhere."""
    settings = EdgeSettings(folder=tmp_path, keeps_state=keeps_state)
    work = DeviceWork(settings, AddOne(5000, state=is_kept), Client(id=ClientId("pi")), Direct(), lambda: 0.0)
    await work.open(None)
    model = Published()
    model.fill(await work.model(model.ref))
    with structlog.testing.capture_logs() as logs:
        await work.work(ORDER)
    (entry,) = work.outbox.entries
    failed = [line["cause"] for line in logs if line["event"] == "training_failed"]
    if keeps_state or not is_kept:
        assert (entry.report.outcome, failed) == (Reported.TRAINED, [])
    else:
        assert (entry.report.outcome, entry.report.error) == (Reported.FAILED, str(Reason.STATE))
        (cause,) = failed
        assert all(part in cause for part in ("'count'", "keeps_state = true", "personal, keep_optimizer"))
