"""What an algorithm keeps on a device: an assignment says whose state it goes on from, and it is there."""

from pathlib import Path

import numpy as np
import pytest
import structlog

from edge_client.algorithm_states import AlgorithmStates
from edge_client.files import OnDisk
from edge_client.local_state import KEPT_RUNS
from shared.errors import PeerError, Reason
from shared.task import Arrays
from tests.edge_client.builders import RUN, lease


class Device:
    """A device that works under numbered leases; each state holds the number of its lease."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.states = AlgorithmStates(OnDisk(folder))

    def train(self, number: int, parent: int | None = None, run: str = RUN) -> None:
        """Stage a state."""
        arrays: Arrays = {"g": np.array([number], np.float32)}
        self.states.stage(lease(number), run, arrays, parent=None if parent is None else lease(parent))

    def has(self, number: int, run: str = RUN) -> bool:
        """Whether work could go on from that state, also after a reboot."""
        try:
            now, rebooted = (
                states.of(run, lease(number)) for states in (self.states, AlgorithmStates(OnDisk(self.folder)))
            )
        except PeerError as error:
            return error.reason is not Reason.STATE
        assert now["g"].tolist() == rebooted["g"].tolist() == [number]
        return True


def test_work_goes_on_from_the_state_that_it_is_told(tmp_path: Path) -> None:
    """Whether or not the receipt arrived: it may be lost, and the aggregator counts the update all the same."""
    device = Device(tmp_path)
    assert device.states.of(RUN, None) == {}
    device.train(1)
    assert device.has(1)
    device.states.accept(lease(1), [])
    assert device.has(1)
    assert device.states.of(RUN, None) == {}


def test_refused_update_leaves_no_state(tmp_path: Path) -> None:
    """Nobody can go on from what does not count; the state before is still there."""
    device = Device(tmp_path)
    device.train(1)
    device.states.accept(lease(1), [])
    device.train(2, parent=1)
    device.states.roll_back(lease(2))
    assert (device.has(1), device.has(2)) == (True, False)


def test_accepted_update_that_is_thrown_away_can_be_gone_back_from(tmp_path: Path) -> None:
    """`resume --void`: the device was told accepted, and its next work goes on from the update before."""
    device = Device(tmp_path)
    for number in (1, 2, 3):
        device.train(number, parent=number - 1 or None)
        device.states.accept(lease(number), [])
        assert [n for n in (1, 2, 3) if device.has(n)] == [n for n in (number - 1, number) if n]
    device.train(4, parent=2)
    device.states.accept(lease(4), [])
    assert [n for n in (1, 2, 3, 4) if device.has(n)] == [2, 4]


def test_states_of_reports_without_an_outcome_stay(tmp_path: Path) -> None:
    """One whose receipt was lost may have counted; one that is being written belongs to the newest."""
    device = Device(tmp_path)
    device.train(1)
    device.train(2, parent=1)
    device.train(3, parent=2)
    device.train(4)
    device.states.accept(lease(2), [lease(2), lease(4)])
    assert [n for n in (1, 2, 3, 4) if device.has(n)] == [1, 2, 3, 4]
    device.states.accept(lease(3), [])
    assert [n for n in (1, 2, 3, 4) if device.has(n)] == [2, 3]


def test_accepting_twice_or_something_unknown_changes_nothing(tmp_path: Path) -> None:
    """A receipt is repeated, and most leases are of algorithms that keep nothing."""
    device = Device(tmp_path / "state")
    device.states.accept(lease(9), [])
    device.states.roll_back(lease(9))
    assert not (tmp_path / "state").exists()
    device.train(1)
    for _ in range(2):
        device.states.accept(lease(1), [])
    assert device.has(1)


def test_damaged_state_is_named(tmp_path: Path) -> None:
    """The lease fails with a reason of its own, and nothing is trained from rubbish."""
    device = Device(tmp_path)
    device.train(1)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(PeerError, match="damaged") as caught:
        device.states.of(RUN, lease(1))
    assert caught.value.reason is Reason.STATE


def test_full_disk_leaves_the_state_in_memory_until_it_has_room(tmp_path: Path) -> None:
    """As the report then is; once its update counts, it is written."""
    (tmp_path / "state").write_text("in the way")
    device = Device(tmp_path / "state")
    with structlog.testing.capture_logs() as logs:
        device.train(1)
    assert [line["event"] for line in logs] == ["algorithm_state_not_durable"]
    assert device.states.of(RUN, lease(1))["g"].tolist() == [1.0]
    with pytest.raises(OSError, match=r"exists|directory"):
        device.states.accept(lease(1), [])
    (tmp_path / "state").unlink()
    device.states.accept(lease(1), [])
    assert device.has(1)


def test_states_of_old_runs_go(tmp_path: Path) -> None:
    """A device that takes part in run after run does not fill its disk."""
    device = Device(tmp_path)
    for number in range(1, KEPT_RUNS + 3):
        device.train(number, run=f"run-{number}")
        device.states.accept(lease(number), [])
    kept = [number for number in range(1, KEPT_RUNS + 3) if device.has(number, f"run-{number}")]
    assert len(kept) == KEPT_RUNS
    assert kept[-1] == KEPT_RUNS + 2
