"""One training at a time in a process, under a seed, in one thread: what makes its bits repeatable."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["alone", "device_named"]

_one_at_a_time = threading.Lock()


@contextmanager
def alone(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch for the time of a block, alone in this process; afterwards its generators are as they were."""
    with _one_at_a_time, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        n_threads = torch.get_num_threads()
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)
        try:
            torch.manual_seed(seed)
            yield
        finally:
            torch.set_num_threads(n_threads)


def device_named(name: str) -> torch.device:
    """Return the device; "auto" is cuda, then mps, then cpu."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
