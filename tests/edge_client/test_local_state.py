from pathlib import Path

import numpy as np
import pytest
import structlog

from edge_client.files import OnDisk
from edge_client.local_state import KEPT_RUNS, LocalState
from shared.task import Arrays
from tests.edge_client.builders import RUN, lease


def value(state: LocalState, run: str = RUN) -> float | None:
    """The number in the current state."""
    current = state.current(run)
    return float(current["x"]) if current else None


def some(number: float) -> Arrays:
    """A state that holds a number."""
    return {"x": np.array(number), "file": np.arange(6).reshape(2, 3)}


def test_state_becomes_current_when_accepted(tmp_path: Path) -> None:
    """Not before; and it survives a restart."""
    state = LocalState(OnDisk(tmp_path))
    assert value(state) is None
    state.stage(lease(1), RUN, some(1))
    assert value(state) is None
    state.accept(lease(1))
    assert value(LocalState(OnDisk(tmp_path))) == 1
    assert LocalState(OnDisk(tmp_path)).current(RUN)["file"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_refused_update_rolls_back(tmp_path: Path) -> None:
    """A device goes on from the last accepted round, not from the refused one."""
    state = LocalState(OnDisk(tmp_path))
    state.stage(lease(1), RUN, some(1))
    state.accept(lease(1))
    state.stage(lease(2), RUN, some(2))
    state.roll_back(lease(2))
    state.accept(lease(2))
    assert value(state) == 1


def test_accepting_twice_changes_nothing(tmp_path: Path) -> None:
    """The power may go between the outcome and the deletion of the report, and the receipt is repeated."""
    state = LocalState(OnDisk(tmp_path))
    state.stage(lease(1), RUN, some(1))
    state.accept(lease(1))
    state.accept(lease(1))
    assert value(state) == 1


def test_state_without_a_report_is_deleted_at_the_start(tmp_path: Path) -> None:
    """The power went after the state and before the report was durable: that work never was."""
    state = LocalState(OnDisk(tmp_path))
    state.stage(lease(1), RUN, some(1))
    state.stage(lease(2), RUN, some(2))
    LocalState(OnDisk(tmp_path)).open([lease(2)])
    state.accept(lease(1))
    assert value(state) is None
    state.accept(lease(2))
    assert value(state) == 2


def test_task_without_state_writes_nothing_but_may_clear_it(tmp_path: Path) -> None:
    """Most tasks keep nothing; one that returns nothing after something has forgotten it."""
    state = LocalState(OnDisk(tmp_path / "state"))
    state.stage(lease(1), RUN, {})
    assert not (tmp_path / "state").exists()
    state.stage(lease(2), RUN, some(1))
    state.accept(lease(2))
    state.stage(lease(3), RUN, {})
    state.accept(lease(3))
    assert state.current(RUN) == {}


def test_runs_have_states_of_their_own_and_old_ones_go(tmp_path: Path) -> None:
    """The state of a run that ended long ago is not kept for ever."""
    state = LocalState(OnDisk(tmp_path))
    for number in range(KEPT_RUNS + 1):
        state.stage(lease(number), f"run-{number}", some(number))
        state.accept(lease(number))
    assert [value(state, f"run-{number}") for number in range(KEPT_RUNS + 1)] == [None, 1, 2, 3, 4]


def test_every_flipped_bit_and_every_shorter_file_is_noticed(tmp_path: Path) -> None:
    """A number that a broken disk has changed is never trained with: the state is named, and set aside."""
    state = LocalState(OnDisk(tmp_path))
    state.stage(lease(1), RUN, {"x": np.array(1.0)})
    state.accept(lease(1))
    path = tmp_path / f"{RUN}.state"
    whole = path.read_bytes()
    shorter = [whole[:length] for length in range(len(whole))]
    flipped = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    for data in [*shorter, *flipped]:
        path.write_bytes(data)
        with structlog.testing.capture_logs() as logs:
            assert state.current(RUN) == {}
        assert [(line["event"], line["run"]) for line in logs] == [("local_state_damaged", RUN)]
        assert f"outbox discard {RUN} --folder {tmp_path.parent}" in logs[0]["remedy"]
        assert path.with_suffix(".damaged").read_bytes() == data
    assert state.current(RUN) == {}


def test_state_that_was_set_aside_is_named_at_each_start(tmp_path: Path) -> None:
    """Until a person has ended the matter."""
    (tmp_path / f"{RUN}.damaged").write_bytes(b"not at all")
    with structlog.testing.capture_logs() as logs:
        LocalState(OnDisk(tmp_path)).open([])
    assert [(line["event"], line["run"]) for line in logs] == [("local_state_damaged", RUN)]


def test_state_that_was_set_aside_is_no_news_once_there_is_a_good_one(tmp_path: Path) -> None:
    """The client goes on with what it has kept since."""
    (tmp_path / f"{RUN}.damaged").write_bytes(b"not at all")
    state = LocalState(OnDisk(tmp_path))
    state.stage(lease(1), RUN, {"x": np.array(1.0)})
    state.accept(lease(1))
    with structlog.testing.capture_logs() as logs:
        LocalState(OnDisk(tmp_path)).open([])
    assert not logs


def test_state_that_can_be_neither_read_nor_set_aside_is_named(tmp_path: Path) -> None:
    """A folder lies where a file should: the training goes on without it, and is not to blame."""
    (tmp_path / f"{RUN}.state").mkdir()
    (tmp_path / f"{RUN}.damaged").write_bytes(b"")
    with structlog.testing.capture_logs() as logs:
        assert LocalState(OnDisk(tmp_path)).current(RUN) == {}
    assert [(line["event"], line["run"]) for line in logs] == [("local_state_damaged", RUN)]


@pytest.mark.parametrize("is_accepted", [True, False])
def test_full_disk_keeps_new_state_in_memory(tmp_path: Path, is_accepted: bool) -> None:
    """It goes with the report, which is kept in memory too; the log says that it is not safe."""
    state = LocalState(OnDisk(tmp_path))
    in_the_way = tmp_path / f"{lease(1)}.{RUN}.pending.part"
    in_the_way.mkdir()
    with structlog.testing.capture_logs() as logs:
        state.stage(lease(1), RUN, some(1))
    assert [line["event"] for line in logs] == ["local_state_not_durable"]
    in_the_way.rmdir()
    if is_accepted:
        state.accept(lease(1))
        state.accept(lease(1))
    else:
        state.roll_back(lease(1))
        state.accept(lease(1))
    assert value(LocalState(OnDisk(tmp_path))) == (1 if is_accepted else None)


@pytest.mark.parametrize("array", [np.array([object()]), np.array(["text"]), "no array"])
def test_what_cannot_be_kept_is_refused(tmp_path: Path, array: object) -> None:
    """Numbers only: nothing is ever pickled."""
    with pytest.raises(TypeError):
        LocalState(OnDisk(tmp_path)).stage(lease(1), RUN, {"x": array})  # type: ignore[dict-item]


def test_array_of_any_layout_comes_back(tmp_path: Path) -> None:
    """Transposed and sliced arrays keep their values."""
    state = LocalState(OnDisk(tmp_path))
    array = np.arange(12, dtype=np.float64).reshape(3, 4).T[::2]
    state.stage(lease(1), RUN, {"x": array})
    state.accept(lease(1))
    assert np.array_equal(state.current(RUN)["x"], array)
