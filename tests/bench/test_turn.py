import os
from pathlib import Path

import pytest

from bench.cases import Case
from bench.turn import Meter, Setting


def a_setting(n_devices: int = 2, n_rounds: int = 2, n_processes: int = 2) -> Setting:
    """Return a setting whose folder nobody uses."""
    case = Case(n_devices=n_devices, model_bytes=4)
    return Setting(case=case, n_rounds=n_rounds, n_processes=n_processes, folder=Path())


@pytest.mark.parametrize(("n_devices", "n_processes"), [(10, 2), (50, 3), (1, 4), (7, 7)])
def test_devices_are_divided_among_processes(n_devices: int, n_processes: int) -> None:
    """Each device is in one process, no process is empty, and none has two more than another."""
    shares = a_setting(n_devices=n_devices, n_processes=n_processes).shares()
    sizes = [len(share) for share in shares]
    assert [number for share in shares for number in share] == list(range(n_devices))
    assert len(shares) <= n_processes
    assert 0 < min(sizes) <= max(sizes) <= min(sizes) + 1


def test_meter_leaves_the_first_round_and_the_last_out() -> None:
    """Connecting and leaving are not rounds; what costs before and after does not count either."""
    said: list[str] = []
    meter = Meter(a_setting(), server=os.getpid(), broker=None, clients=[], say=said.append)
    for at_s in (10.0, 11.0, 13.0, 100.0):
        meter.round_ended(at_s)
    turn = meter.result(loop_lag_ms=4.0)
    assert turn.round_s == (1.0, 2.0)
    assert turn.loop_lag_ms == 4.0
    assert said == ["round 2 of 4, 1.00 s", "round 3 of 4, 2.00 s", "round 4 of 4, 87.00 s"]


def test_meter_reads_what_each_process_costs() -> None:
    """CPU is counted from the end of the first round; a contender without a broker has none of its figures."""
    meter = Meter(a_setting(n_rounds=1), server=os.getpid(), broker=None, clients=[os.getpid()], say=lambda line: None)
    meter.round_ended(0.0)
    sum(range(1_000_000))
    meter.round_ended(1.0)
    turn = meter.result()
    assert 0 < turn.server_cpu_s < 10
    assert turn.clients_cpu_s > 0
    assert turn.server_rss > 2**20
    assert (turn.broker_cpu_s, turn.broker_rss) == (0.0, 0)
