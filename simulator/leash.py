"""`python -m simulator.leash MODULE ARGUMENTS…`: run a module that ends when whoever started it does.

The starter holds the other end of this process's standard input. When that closes, however the starter died, the
process gets SIGTERM, and after a while it ends without being asked. Works wherever there are pipes; needs no
PR_SET_PDEATHSIG.
"""

import os
import runpy
import signal
import sys
import threading
import time

__all__ = ["GRACE_S"]

GRACE_S = 5.0
"""Seconds between SIGTERM and the end, enough to close a journal."""
_STDIN = 0


def _end_with_starter() -> None:
    while os.read(_STDIN, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_starter, name="leash", daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
