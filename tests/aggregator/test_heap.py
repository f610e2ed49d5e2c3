"""What is freed goes back to the system, where the C library can be told."""

import ctypes
import platform
import subprocess
import sys

import pytest

from aggregator.heap import keep_heap_small

PROGRAM = """
from concurrent.futures import ThreadPoolExecutor
from aggregator.heap import keep_heap_small

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

assert keep_heap_small()
before = resident()
with ThreadPoolExecutor(4) as threads:
    # chunks of 120 KiB that are made and freed on several threads; one small thing made last keeps none of them
    chunks = list(threads.map(lambda _: b"x" * 122_880, range(500)))
    held = resident()
    del chunks
print(held - before, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told how to keep a heap")
def test_chunks_that_were_freed_are_given_back() -> None:
    """60 MiB of chunks from four threads: most of it is the system's again once they are gone."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    held, left = map(int, done.stdout.split())
    assert held > 50 * 2**20
    assert left < 20 * 2**20


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no `mallopt` nothing happens."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_heap_small()
