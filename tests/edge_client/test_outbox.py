import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from edge_client.files import OnDisk
from edge_client.final_leases import KEPT_FINALS
from edge_client.outbox import Outbox
from shared.chunking import sha256_hex
from shared.errors import ConfigError, InvalidState
from shared.messages import Report, Reported
from tests.edge_client.builders import RUN, lease


def a_report(number: int, payload: bytes) -> Report:
    """The report of an update."""
    return Report(
        lease=lease(number),
        run=RUN,
        outcome=Reported.TRAINED,
        codec="float32",
        num_examples=3,
        metrics={"loss": 0.5, "accuracy": (1.0, 2.0)},
        size=len(payload),
        sha256=sha256_hex(payload),
        chunk_bytes=4096,
    )


def an_outbox(
    folder: Path,
    *,
    quota_bytes: int = 10**6,
    keep_s: float = 1000,
    wall_clock: Callable[[], float] = lambda: 0.0,
    clock: Callable[[], float] = lambda: 0.0,
) -> Outbox:
    """An outbox as after a start."""
    outbox = Outbox(
        OnDisk(folder / "outbox"), quota_bytes=quota_bytes, keep_s=keep_s, wall_clock=wall_clock, clock=clock
    )
    outbox.load()
    return outbox


def put(outbox: Outbox, number: int, payload: bytes = b"update") -> list[str]:
    """Keep an update."""
    return outbox.put(a_report(number, payload), round=4, version=3, payload=payload)


def test_report_survives_a_reboot(tmp_path: Path) -> None:
    """What was put is there after a restart, to the byte."""
    put(an_outbox(tmp_path), 1, b"0123456789")
    outbox = an_outbox(tmp_path)
    (entry,) = outbox.entries
    assert entry.report == a_report(1, b"0123456789")
    assert (entry.round, entry.version, entry.n_bytes) == (4, 3, 10)
    assert outbox.read(lease(1)) == b"0123456789"
    assert outbox.read(lease(1), 3, 4) == b"3456"


def test_report_without_an_update_is_kept_too(tmp_path: Path) -> None:
    """A failure or an evaluation must survive a lost receipt as well."""
    failed = Report(lease=lease(1), run=RUN, outcome=Reported.FAILED, error="ValueError")
    an_outbox(tmp_path).put(failed, round=1, version=0, payload=b"")
    outbox = an_outbox(tmp_path)
    assert [entry.report for entry in outbox.entries] == [failed]
    assert outbox.read(lease(1)) == b""


def test_final_lease_is_deleted_and_remembered(tmp_path: Path) -> None:
    """After the outcome nothing is offered again, and an assignment under it is known to be old."""
    outbox = an_outbox(tmp_path)
    put(outbox, 1)
    outbox.conclude(lease(1))
    for again in (outbox, an_outbox(tmp_path)):
        assert again.entries == []
        assert again.finals == [lease(1)]
    with pytest.raises(FileNotFoundError):
        outbox.read(lease(1))


def test_last_64_final_leases_are_kept(tmp_path: Path) -> None:
    """The file does not grow for ever."""
    outbox = an_outbox(tmp_path)
    for number in range(KEPT_FINALS + 6):
        outbox.conclude(lease(number))
    assert an_outbox(tmp_path).finals == [lease(number) for number in range(6, KEPT_FINALS + 6)]


def test_power_lost_between_outcome_and_deletion_is_finished_at_the_start(tmp_path: Path) -> None:
    """The lease is known to be final, so its report goes."""
    outbox = an_outbox(tmp_path)
    put(outbox, 1)
    saved = {path: path.read_bytes() for path in (tmp_path / "outbox").glob("*.report")}
    outbox.conclude(lease(1))
    for path, data in saved.items():
        path.write_bytes(data)
    assert an_outbox(tmp_path).entries == []


@pytest.mark.parametrize("position", [0, 5, 10, 20, 60, 120, -1])
def test_damaged_entry_is_named_and_set_aside(tmp_path: Path, position: int) -> None:
    """A flipped bit anywhere: the log names the lease, nothing of it is offered, the bytes are kept to look at."""
    put(an_outbox(tmp_path), 1)
    put(an_outbox(tmp_path), 2)
    path = tmp_path / "outbox" / f"{lease(1)}.report"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with structlog.testing.capture_logs() as logs:
        outbox = an_outbox(tmp_path)
    assert [entry.lease for entry in outbox.entries] == [lease(2)]
    assert [(line["event"], line["lease"]) for line in logs] == [("outbox_entry_damaged", lease(1))]
    assert f"outbox discard {lease(1)} --folder {tmp_path}" in logs[0]["remedy"]
    assert path.with_suffix(".damaged").read_bytes() == data
    with structlog.testing.capture_logs() as logs:
        assert an_outbox(tmp_path).damaged == [lease(1)]
    assert [(line["event"], line["lease"]) for line in logs] == [("outbox_entry_damaged", lease(1))]


def test_every_shorter_file_is_damaged(tmp_path: Path) -> None:
    """A file that was cut anywhere is noticed."""
    put(an_outbox(tmp_path), 1)
    path = tmp_path / "outbox" / f"{lease(1)}.report"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert an_outbox(tmp_path).entries == []
    path.write_bytes(whole)
    assert len(an_outbox(tmp_path).entries) == 1


@pytest.mark.parametrize("content", [b"\xff\xfe", b"not a lease", b"0" * 31])
def test_damaged_list_of_final_leases_is_named_and_set_aside(tmp_path: Path, content: bytes) -> None:
    """The device starts all the same, with its reports; the bytes are kept to look at."""
    put(an_outbox(tmp_path), 1)
    path = tmp_path / "outbox" / "final_leases"
    path.write_bytes(content)
    with structlog.testing.capture_logs() as logs:
        outbox = an_outbox(tmp_path)
    assert [line["event"] for line in logs] == ["final_leases_damaged"]
    assert "is no lease" in logs[0]["cause"]
    assert f"outbox discard final_leases --folder {tmp_path}" in logs[0]["remedy"]
    assert [entry.lease for entry in outbox.entries] == [lease(1)]
    assert path.with_suffix(".damaged").read_bytes() == content
    assert outbox.damaged == []


def test_folder_that_cannot_be_used_is_the_operators(tmp_path: Path) -> None:
    """It is named, and says what is wrong with it."""
    (tmp_path / "outbox").write_bytes(b"a file in its place")
    with pytest.raises(ConfigError, match="outbox: cannot be used: File exists"):
        an_outbox(tmp_path)


def test_half_written_file_is_forgotten(tmp_path: Path) -> None:
    """The power went before the rename: there was no report."""
    an_outbox(tmp_path)
    (tmp_path / "outbox" / f"{lease(1)}.report.part").write_bytes(b"FEDMQ")
    assert an_outbox(tmp_path).entries == []
    assert not list((tmp_path / "outbox").glob("*.part"))


def test_quota_drops_the_oldest_never_the_newest(tmp_path: Path) -> None:
    """The newest is worth most; whoever held the others is told."""
    now = 0.0
    outbox = an_outbox(tmp_path, quota_bytes=25, clock=lambda: now)
    for number in (1, 2):
        now = float(number)
        assert put(outbox, number, b"0123456789") == []
    now = 3.0
    assert put(outbox, 3, b"0123456789") == [lease(1)]
    now = 4.0
    assert put(outbox, 4, b"x" * 100) == [lease(2), lease(3)]
    assert [entry.lease for entry in an_outbox(tmp_path).entries] == [lease(4)]


def test_old_report_is_offered_once_after_a_reboot_and_then_goes(tmp_path: Path) -> None:
    """No run waits for it after its days; but a clock that is wrong at the start loses nothing."""
    put(an_outbox(tmp_path), 1)
    outbox = an_outbox(tmp_path, wall_clock=lambda: 1001.0)
    assert [entry.lease for entry in outbox.entries] == [lease(1)]
    with structlog.testing.capture_logs() as logs:
        assert outbox.expire() == [lease(1)]
    assert [(line["event"], line["cause"]) for line in logs] == [("outbox_entry_dropped", "too old")]
    assert an_outbox(tmp_path).entries == []


def test_report_grows_old_while_the_device_runs(tmp_path: Path) -> None:
    """Nobody has to restart it; a newer report is not touched."""
    now = 0.0
    outbox = an_outbox(tmp_path, clock=lambda: now)
    put(outbox, 1)
    now = 600.0
    put(outbox, 2)
    assert outbox.expire() == []
    now = 1001.0
    assert outbox.expire() == [lease(1)]
    assert [entry.lease for entry in outbox.entries] == [lease(2)]


def test_clock_that_is_set_makes_no_report_older(tmp_path: Path) -> None:
    """A board without a battery believes in 1970 until the network tells it better."""
    wall = 0.0
    ticks = itertools.count()
    outbox = an_outbox(tmp_path, wall_clock=lambda: wall, clock=lambda: float(next(ticks)))
    put(outbox, 1)
    wall = 1.8e9
    put(outbox, 2)
    assert outbox.expire() == []
    wall = 100.0
    put(outbox, 3)
    assert [entry.lease for entry in outbox.entries] == [lease(1), lease(2), lease(3)]


def test_full_disk_keeps_the_report_in_memory(tmp_path: Path) -> None:
    """The federation gets it all the same, and the log says that it is not safe."""
    outbox = an_outbox(tmp_path)
    (tmp_path / "outbox" / f"{lease(1)}.report.part").mkdir()
    with structlog.testing.capture_logs() as logs:
        put(outbox, 1)
    assert logs[0]["event"] == "outbox_not_durable"
    assert outbox.read(lease(1), 2, 3) == b"dat"
    outbox.conclude(lease(1))
    assert outbox.entries == []


def test_unreadable_report_is_set_aside(tmp_path: Path) -> None:
    """Dropping is not deleting."""
    outbox = an_outbox(tmp_path)
    put(outbox, 1)
    outbox.drop(lease(1))
    assert outbox.entry(lease(1)) is None
    assert (tmp_path / "outbox" / f"{lease(1)}.damaged").exists()


def test_lease_is_put_once(tmp_path: Path) -> None:
    """One lease, one report."""
    outbox = an_outbox(tmp_path)
    put(outbox, 1)
    with pytest.raises(InvalidState):
        put(outbox, 1)


def test_entry_that_cannot_be_set_aside_is_forgotten(tmp_path: Path) -> None:
    """It is not offered again in this life, and the device lives on."""
    outbox = an_outbox(tmp_path)
    put(outbox, 1)
    aside = tmp_path / "outbox" / f"{lease(1)}.damaged" / "in the way"
    aside.mkdir(parents=True)
    outbox.drop(lease(1))
    assert outbox.entries == []
