import os
import subprocess
import sys
import time

import pytest

from bench.process_costs import cpu_seconds, peak_rss_bytes

BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"


def test_cpu_counts_what_the_process_itself_uses() -> None:
    """It agrees with what the process knows about itself."""
    before_s, known_s = cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() < known_s + 0.05:
        pass
    assert 0.05 <= cpu_seconds(os.getpid()) - before_s < 1


def test_cpu_counts_a_child_while_it_lives_and_once_it_has_been_waited_for() -> None:
    """Whoever starts a helper pays for it, and not twice."""
    before_s = cpu_seconds(os.getpid())
    code = BURN.format(seconds=0.1) + "print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        alive_s = cpu_seconds(os.getpid()) - before_s
        assert cpu_seconds(child.pid) >= 0.1
        child.communicate(b"\n")
    ended_s = cpu_seconds(os.getpid()) - before_s
    assert alive_s >= 0.1
    assert alive_s - 0.02 <= ended_s < alive_s + 0.1


@pytest.mark.parametrize(("mebibytes", "most_of_it"), [(0, range(1, 48)), (64, range(64, 112))])
def test_peak_rss_remembers_memory_that_was_given_back(mebibytes: int, most_of_it: range) -> None:
    """The most a process ever had, not what it has."""
    code = f"block = b'1' * ({mebibytes} * 2**20); del block; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert peak_rss_bytes(child.pid) // 2**20 in most_of_it
        child.communicate(b"\n")


def test_costs_of_nobody_are_an_error() -> None:
    """A process that has ended has no costs to read, rather than none."""
    nobody = 2**22 + 1  # over the largest pid there is
    with pytest.raises(ProcessLookupError):
        cpu_seconds(nobody)
    with pytest.raises(ProcessLookupError):
        peak_rss_bytes(nobody)
