from pathlib import Path

import pytest

from bench.round_log import announce_deviation, announce_round, deviation_in, follow_rounds


async def test_rounds_are_heard_among_whatever_else_a_server_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Announced and followed, in their order, while the log grows; half a line waits for its other half."""
    announce_round()
    announce_round()
    first, second = capsys.readouterr().out.splitlines()
    log, ends = tmp_path / "server.log", list[float]()
    log.write_text(f"INFO: starting\n{first}\n{second[:9]}")

    def ended(at_s: float) -> None:
        if not ends:  # the server goes on only now
            with log.open("a") as file:
                file.write(f"{second[9:]}\nINFO: going on\n")
        ends.append(at_s)

    await follow_rounds(log, 2, ended, limit_s=10)
    assert len(ends) == 2
    assert ends == sorted(ends)


async def test_round_that_does_not_end_is_not_waited_for(tmp_path: Path) -> None:
    """A server that hangs fails its turn."""
    log = tmp_path / "server.log"
    log.touch()
    with pytest.raises(TimeoutError):
        await follow_rounds(log, 1, lambda at_s: None, limit_s=0.01)


def test_deviation_is_read_from_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How far the final model is off, or None when the server never said."""
    log = tmp_path / "server.log"
    log.write_text("INFO: starting\n")
    assert deviation_in(log) is None
    announce_deviation(0.25)
    log.write_text(f"INFO: starting\n{capsys.readouterr().out}INFO: bye\n")
    assert deviation_in(log) == 0.25
