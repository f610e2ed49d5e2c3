import io
from dataclasses import replace

from rich.console import Console

from aggregator.config import StopSettings
from shared.messages import AggregatorStatus
from simulator.runs.progress import Progress
from simulator.runs.simulation import Moment

STOP = StopSettings(rounds=10, metric="accuracy")


def _moment(wall_s: float) -> Moment:
    status = AggregatorStatus(
        online=True, epoch=1, instance="i", run="r", round=5, version=4, metrics={"accuracy": 0.75}
    )
    return Moment(at_s=3661, wall_s=wall_s, n_events=int(wall_s * 1000), status=status, n_on=7, n_devices=9, n_fits=40)


def test_line_says_how_far_how_good_and_how_long() -> None:
    """Virtual time, round, version, metric, devices, fits, speed, and the time that is left at this pace."""
    line = Progress(STOP, 1e6, is_silent=True).line(_moment(20))
    for part in ("01:01:01", "round 5 of 10, version 4", "accuracy 0.7500", "7 of 9 on", "40 fits", "1,000 timers/s"):
        assert part in line
    assert "00:00:30 left" in line


def test_line_says_what_keeps_a_run_from_going_on() -> None:
    """Updates that were rejected, and why devices that are there do not begin a round."""
    moment = _moment(20)
    assert moment.status is not None
    changes = {"phase": "waiting", "need": 3, "states": {"rejected": 40}, "causes": ["waiting_for_devices"]}
    causes = ["waiting_for_devices", "keep_no_state: 5"]
    lines = [
        Progress(STOP, 1e6, is_silent=True).line(
            replace(moment, status=moment.status.model_copy(update={**changes, "causes": each, "have": have}))
        )
        for each, have in [(causes[:1], 0), (causes, 0), (causes, 3)]
    ]
    assert all("40 rejected" in line for line in lines)
    assert ["waits: keep no state: 5" in line for line in lines] == [False, True, False]


def test_lines_come_now_and_then_where_there_is_no_terminal() -> None:
    """Every five real seconds, and never when a program reads the end."""
    shown = io.StringIO()
    with Progress(STOP, 1e6, console=Console(file=shown, width=200)) as progress:
        for wall_s in (1, 5, 6, 7, 10, 11):
            progress.show(_moment(wall_s))
    assert len(shown.getvalue().splitlines()) == 2
    silent = io.StringIO()
    with Progress(STOP, 1e6, is_silent=True, console=Console(file=silent)) as progress:
        progress.show(_moment(9))
        progress.say("a line")
    assert silent.getvalue() == ""
