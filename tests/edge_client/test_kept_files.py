from pathlib import Path

import numpy as np
import pytest

from edge_client.files import OnDisk
from edge_client.kept_files import Kind, device_folders, discard, kept_files, retry
from edge_client.local_state import LocalState
from edge_client.outbox import Outbox
from edge_client.state_folder import lock_folder
from shared.errors import AlreadyServed, ConfigError
from tests.edge_client.builders import RUN, lease
from tests.edge_client.test_outbox import an_outbox, put


def a_device(root: Path, name: str = "pi") -> Path:
    """A device with a report, a damaged report with its state, and a damaged state."""
    folder = root / "fleet" / name
    outbox = an_outbox(folder)
    put(outbox, 1)
    put(outbox, 2)
    state = LocalState(OnDisk(folder / "state"))
    state.stage(lease(2), RUN, {"x": np.array(2.0)})
    state.stage(lease(3), "run-0", {"x": np.array(3.0)})
    state.accept(lease(3))
    damage(folder / "outbox" / f"{lease(2)}.report")
    damage(folder / "state" / "run-0.state")
    reloaded(folder)
    assert state.current("run-0") == {}
    return folder


def damage(path: Path) -> None:
    """Flip the last bit; twice is none."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def reloaded(folder: Path) -> Outbox:
    """The outbox as after a start."""
    return an_outbox(folder)


def test_everything_is_named_with_its_condition(tmp_path: Path) -> None:
    """Damaged files first, with the cause."""
    kept = kept_files(a_device(tmp_path))
    assert [(file.kind, file.name, file.run) for file in kept] == [
        (Kind.DAMAGED_REPORT, lease(2), ""),
        (Kind.DAMAGED_STATE, "run-0", "run-0"),
        (Kind.REPORT, lease(1), RUN),
    ]
    assert [file.cause for file in kept] == ["its update has another checksum", "it has another checksum", ""]


def test_folder_is_one_device_or_all_of_them(tmp_path: Path) -> None:
    """Both are what a person may have at hand; an empty one is said to be so."""
    one, other = a_device(tmp_path), a_device(tmp_path, "pi-2")
    assert device_folders(tmp_path) == [one, other]
    assert device_folders(one) == [one]
    with pytest.raises(ConfigError, match="no device keeps anything here"):
        device_folders(tmp_path / "elsewhere")


def test_discarded_files_are_gone_with_the_state_that_waited(tmp_path: Path) -> None:
    """Nothing of a discarded report is left to become current, and the next start names nothing."""
    folder = a_device(tmp_path)
    for file in kept_files(folder):
        discard(file)
    assert kept_files(folder) == []
    assert list((folder / "state").iterdir()) == []
    assert reloaded(folder).entries == []


def test_repaired_files_are_put_back(tmp_path: Path) -> None:
    """The report is offered again, and the state is current again."""
    folder = a_device(tmp_path)
    damaged = kept_files(folder)[:2]
    for file in damaged:
        with pytest.raises(ConfigError, match="is damaged still"):
            retry(file)
        damage(file.path)
        retry(file)
    assert [entry.lease for entry in reloaded(folder).entries] == [lease(1), lease(2)]
    assert float(LocalState(OnDisk(folder / "state")).current("run-0")["x"]) == 3.0


def test_file_whose_place_is_taken_is_not_put_back(tmp_path: Path) -> None:
    """What the client has learned since is not overwritten."""
    folder = a_device(tmp_path)
    file = kept_files(folder)[1]
    damage(file.path)
    state = LocalState(OnDisk(folder / "state"))
    state.stage(lease(4), "run-0", {"x": np.array(4.0)})
    state.accept(lease(4))
    with pytest.raises(ConfigError, match="has taken its place"):
        retry(file)
    assert float(state.current("run-0")["x"]) == 4.0


def test_report_that_is_well_needs_no_retry(tmp_path: Path) -> None:
    """It is offered by itself, and the refusal says so."""
    with pytest.raises(ConfigError, match="offers it by itself"):
        retry(kept_files(a_device(tmp_path))[-1])


def test_running_device_is_left_alone(tmp_path: Path) -> None:
    """Its files are its own while it holds the lock; looking is allowed."""
    folder = a_device(tmp_path)
    with lock_folder(folder):
        files = kept_files(folder)
        for file in files:
            with pytest.raises(AlreadyServed):
                discard(file)
        damage(files[0].path)
        with pytest.raises(AlreadyServed):
            retry(files[0])
    assert len(kept_files(folder)) == 3


def test_damaged_list_of_final_leases_is_called_what_it_is(tmp_path: Path) -> None:
    """It is no report: listed by its own name, put back once it is whole, or discarded."""
    folder = tmp_path / "fleet" / "pi"
    path = folder / "outbox" / "final_leases"
    an_outbox(folder).conclude(lease(1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    reloaded(folder)
    (file,) = kept_files(folder)
    assert (file.kind, file.name, file.run, file.cause) == (
        Kind.DAMAGED_FINALS,
        "final_leases",
        "",
        "line 1 of 1 is no lease",
    )
    with pytest.raises(ConfigError, match="is damaged still: line 1 of 1"):
        retry(file)
    file.path.write_bytes(whole)
    retry(file)
    assert reloaded(folder).finals == [lease(1)]
    path.write_bytes(b"?")
    reloaded(folder)
    discard(kept_files(folder)[0])
    assert kept_files(folder) == []
