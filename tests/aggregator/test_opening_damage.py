"""What a start refuses: files that are not what the journal says, settings that cannot change, a disk that is full."""

import random
import subprocess
import sys
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from aggregator.config import Settings
from aggregator.journal import read_journal
from aggregator.journal_scan import connect
from aggregator.model_store import ModelStore
from aggregator.part_files import PartFiles
from aggregator.records import AcceptRecord, ConfigRecord, LeaseRecord, OutcomeRecord
from broker.config import BrokerSettings
from shared.errors import ConfigError
from tests.aggregator.killed_run import RUN, KilledRun, a_killed_run, go_on, replayed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> KilledRun:
    """A run of two lives, killed with three updates accepted that lie in files."""
    return a_killed_run(tmp_path_factory.mktemp("killed"))


@pytest.fixture(autouse=True)
def _no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without matplotlib."""
    monkeypatch.setattr("aggregator.plot.find_spec", lambda name: None)


def the_update(killed: KilledRun) -> AcceptRecord:
    """Return the last update that was accepted."""
    (*_, row) = (row for row in killed.rows if isinstance(row, AcceptRecord))
    return row


def test_rows_that_update_files_hold_come_back_at_the_start(tmp_path: Path, killed: KilledRun) -> None:
    """The last three rows are lost: nobody is asked anything, and the run ends as if nothing had happened."""
    settings = killed.copy(tmp_path)
    connection = connect(tmp_path / RUN / "journal.sqlite", is_writable=True)
    connection.execute("DELETE FROM journal WHERE seq > ?", (len(killed.rows) - 3,))
    connection.close()
    result = go_on(settings, tmp_path)
    rows = list(read_journal(tmp_path / RUN / "journal.sqlite"))
    assert tuple(rows[: len(killed.rows)]) == killed.rows
    state = ModelStore(tmp_path / RUN / "versions").load(result.version)
    assert state.parameters.tobytes() == replayed(settings, rows, tmp_path / "scratch")


def _unlink(path: Path) -> None:
    path.unlink()


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4100])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096] ^= 1
    path.write_bytes(data)


def _spoil_head(path: Path) -> None:
    path.write_bytes(b"x" + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_unlink, "is missing"),
        (_shorten, "is 28 bytes short"),
        (_flip, "is damaged: its sha-256"),
        (_spoil_head, "does not begin with the report of its lease"),
    ],
)
def test_update_that_is_not_what_was_accepted_is_named(
    tmp_path: Path, killed: KilledRun, damage: Callable[[Path], None], says: str
) -> None:
    """Device, version, file, and the command; the model would be another one."""
    settings, update = killed.copy(tmp_path), the_update(killed)
    path = tmp_path / RUN / "updates" / f"{update.lease}.update"
    damage(path)
    with pytest.raises(ConfigError) as caught:
        go_on(settings, tmp_path)
    for words in (str(path), f"of {update.device} ", f"version {update.into}", says, f"repair {tmp_path / RUN}"):
        assert words in str(caught.value)


def test_flipped_bit_of_an_update_is_noticed_wherever_it_counts(tmp_path: Path, killed: KilledRun) -> None:
    """Any bit of the update itself; and no bit of its file makes looking at it fail."""
    update = the_update(killed)
    source = killed.folder / RUN / "updates" / f"{update.lease}.update"
    files = PartFiles(tmp_path)
    whole, rng = source.read_bytes(), random.Random(3)
    for at in [*range(4096, 4096 + update.size), *rng.sample(range(len(whole)), 500)]:
        data = bytearray(whole)
        data[at] ^= 1 << rng.randrange(8)
        files.path(update.lease).write_bytes(data)
        fault = files.fault(update.lease, size=update.size, sha256=update.sha256)
        assert fault is not None or not 4096 <= at < 4096 + update.size


def test_flipped_bit_of_a_version_is_noticed(tmp_path: Path, killed: KilledRun) -> None:
    """Anywhere in its file: what is loaded is what was saved, or it is refused by name."""
    source, store, rng = ModelStore(killed.folder / RUN / "versions"), ModelStore(tmp_path), random.Random(4)
    whole, state = source.path(4).read_bytes(), source.load(4)
    n_refused = 0
    for _ in range(1000):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        store.path(4).write_bytes(data)
        try:
            found = store.load(4)
        except ConfigError as error:
            n_refused += str(store.path(4)) in str(error)
            continue
        assert found.parameters.tobytes() == state.parameters.tobytes()
        assert replace(found, parameters=state.parameters) == state
    assert n_refused > 900


def test_version_that_lies_under_another_name_is_refused(tmp_path: Path, killed: KilledRun) -> None:
    """Somebody copied an older one over it."""
    settings = killed.copy(tmp_path)
    store = ModelStore(tmp_path / RUN / "versions")
    store.path(4).write_bytes(store.path(3).read_bytes())
    with pytest.raises(ConfigError, match=r"00000004(.|\n)*repair"):
        go_on(settings, tmp_path)


def test_run_whose_journal_is_gone_is_not_begun_anew(tmp_path: Path, killed: KilledRun) -> None:
    """Its versions are still there: they are named, and so is the way on."""
    settings = killed.copy(tmp_path)
    for path in (tmp_path / RUN).glob("journal.*"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"no journal(.|\n)*versions 0, 1, 2, 3, 4(.|\n)*export"):
        go_on(settings, tmp_path)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"fleet": "elsewhere"}, "fleet"),
        ({"seed": 2}, "seed"),
        ({"server": {"init_from": "warm.safetensors"}}, "server.init_from"),
    ],
)
def test_setting_that_cannot_change_is_refused(
    tmp_path: Path, killed: KilledRun, changes: dict[str, Any], key: str
) -> None:
    """What it decides has happened: it is named with what it was, and nothing is journalled."""
    settings = killed.copy(tmp_path)
    changed = Settings.model_validate({**settings.model_dump(), **changes})
    with pytest.raises(ConfigError, match=rf"{key} = .* cannot hold for this run(.|\n)*a run name of their own"):
        go_on(changed, tmp_path)
    assert tuple(read_journal(tmp_path / RUN / "journal.sqlite")) == killed.rows


def test_codec_may_change_within_a_round(tmp_path: Path, killed: KilledRun) -> None:
    """What is accepted keeps the codec it came in, leases that are out keep theirs, new ones get the new."""
    settings = killed.copy(tmp_path)
    training = settings.training.model_copy(update={"codec": "float16"})
    logs: list[MutableMapping[str, Any]] = []
    result = go_on(settings.model_copy(update={"training": training}), tmp_path, logs=logs)
    (said,) = [line for line in logs if line["event"] == "settings_changed"]
    assert said["changes"]["training.codec"] == "float32 -> float16 (in work that is given out from now on)"
    decided = {row.lease for row in killed.rows if isinstance(row, AcceptRecord | OutcomeRecord)}
    n_open = sum(1 for row in killed.rows if isinstance(row, LeaseRecord) and row.lease not in decided)
    assert n_open > 0
    assert (said["open_leases_keep_the_old"], said["accepted_with_the_old"]) == (n_open, 3)
    rows = list(read_journal(tmp_path / RUN / "journal.sqlite"))
    codecs = [row.codec for row in rows if isinstance(row, AcceptRecord) and row.into == 5]
    assert codecs[:3] == ["float32"] * 3
    assert result.version == 5
    (*_, config) = (row for row in rows if isinstance(row, ConfigRecord))
    assert config.from_version == 5


def test_what_changed_is_said_without_a_secret(tmp_path: Path, killed: KilledRun) -> None:
    """Old and new value of each key, and from when on it holds; no password in log or journal."""
    settings = killed.copy(tmp_path)
    broker = BrokerSettings(url="mqtt://127.0.0.1:1", username="me", password=SecretStr("hush-hush"))
    changed = settings.model_copy(
        update={"broker": broker, "round": settings.round.model_copy(update={"extensions": 7})}
    )
    logs: list[MutableMapping[str, Any]] = []
    go_on(changed, tmp_path, logs=logs)
    (said,) = [line for line in logs if line["event"] == "settings_changed"]
    assert said["building_version"] == 5
    assert said["changes"]["round.extensions"] == "2 -> 7 (at once)"
    assert said["changes"]["broker.username"] == "None -> me (at once)"
    assert "hush-hush" not in repr(logs)
    rows = list(read_journal(tmp_path / RUN / "journal.sqlite"))
    assert "hush-hush" not in repr(rows)


@pytest.mark.parametrize("limit_kib", [0, 1, 16])
def test_disk_that_takes_no_more_is_said_at_the_start(tmp_path: Path, limit_kib: int) -> None:
    """Whatever is the first that cannot be written: what, where, what to do, and exit code 2."""
    toml = tmp_path / "run.toml"
    toml.write_text(
        'task = "tests.integration.linear:LinearTask"\nrun = "test"\nbroker = { url = "mqtt://127.0.0.1:1" }\n'
        f'round = {{ report_goal = 2 }}\nstop = {{ rounds = 1 }}\noutput = {{ folder = "{tmp_path}" }}\n'
    )
    command = f"ulimit -f {limit_kib}; exec {sys.executable} -B -m aggregator run {toml}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=18)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "test") in done.stderr
