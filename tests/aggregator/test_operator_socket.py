"""pause, resume and stop reach a running aggregator over a real socket."""

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from aggregator.events import Event, PauseAsked, ResumeAsked, StopAsked
from aggregator.operator_socket import ask, listening
from aggregator.run_folder import RunFolder, read_lock
from shared.errors import ConfigError


@pytest.mark.parametrize(
    ("word", "event"),
    [
        ("pause", PauseAsked()),
        ("resume", ResumeAsked()),
        ("resume-void", ResumeAsked(void=True)),
        ("stop", StopAsked()),
    ],
)
async def test_command_reaches_the_aggregator_and_its_answer_the_operator(
    tmp_path: Path, word: str, event: Event
) -> None:
    """Each word is one event."""
    told: list[Event] = []

    def handle(event: Event) -> dict[str, Any]:
        told.append(event)
        return {"phase": "reporting", "round": 3}

    with RunFolder(tmp_path / "run") as folder:
        async with listening(folder, handle):
            reply = await asyncio.to_thread(ask, folder.path, word)
    assert told == [event]
    assert reply == {"phase": "reporting", "round": 3}


async def test_unknown_command_is_answered_and_changes_nothing(tmp_path: Path) -> None:
    """An older aggregator meets a newer operator."""
    with RunFolder(tmp_path / "run") as folder:
        async with listening(folder, lambda event: {"unexpected": repr(event)}):
            reply = await asyncio.to_thread(ask, folder.path, "explode")
    assert reply == {"error": "no command 'explode'"}


async def test_only_this_user_reaches_the_socket_however_deep_the_run_lies(tmp_path: Path) -> None:
    """A socket's path may have 107 bytes: it lies in a folder of its own, which others cannot enter."""
    deep = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 8)
    with RunFolder(deep) as folder:
        async with listening(folder, lambda event: {}):
            place = Path(read_lock(folder.path)["socket"]).parent
            assert stat.S_IMODE(place.stat().st_mode) == 0o700
            assert await asyncio.to_thread(ask, deep, "pause") == {}
        assert not place.exists()


async def test_line_without_an_end_is_dropped(tmp_path: Path) -> None:
    """Whoever writes too much, or hangs up, is no operator; the next one is answered."""
    with RunFolder(tmp_path / "run") as folder:
        async with listening(folder, lambda event: {"ok": True}):
            path = read_lock(folder.path)["socket"]
            for payload in (b"x" * 200_000, b""):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(payload)
                if not payload:
                    writer.write_eof()
                answer = await reader.read()
                writer.close()
                assert b"ok" not in answer
            assert await asyncio.to_thread(ask, folder.path, "stop") == {"ok": True}


def test_no_aggregator_is_said_with_what_to_do(tmp_path: Path) -> None:
    """Never started, or ended in good order."""
    for _ in range(2):
        with pytest.raises(ConfigError, match="no aggregator holds this folder") as caught:
            ask(tmp_path / "run", "pause")
        assert "python -m aggregator run" in caught.value.hint
        RunFolder(tmp_path / "run").close()


def test_aggregator_that_was_killed_does_not_answer(tmp_path: Path) -> None:
    """Its lock file still names its socket."""
    (tmp_path / "lock").write_text(f'{{"pid": 1, "socket": "{tmp_path}/operator"}}')
    with pytest.raises(ConfigError, match="does not answer"):
        ask(tmp_path, "pause")
