"""What a power failure may leave behind the last commit of SQLite's write-ahead log: nothing, a torn frame, rubbish.

Only what no commit frame covers is touched: everything up to the last one was synchronised before anybody was told of
it. The format is SQLite's own (https://www.sqlite.org/fileformat2.html#walformat).

Not here: bytes that the aggregator wrote itself (`torture_steps.py`).
"""

import struct
from pathlib import Path
from random import Random

__all__ = ["committed_bytes", "tear_log"]

_HEADER = struct.Struct(">4s4sII8s8s")  # magic, version, page size, checkpoint number, salts, checksums
_FRAME = struct.Struct(">II8s8s")  # page, size of the database after a commit or 0, salts, checksums
RUBBISH_BYTES = 6000
"""More than a frame with a page of 4096."""


def committed_bytes(log: bytes) -> int:
    """Return how many bytes of a write-ahead log its last commit frame covers; 0 when there is none."""
    if len(log) < _HEADER.size:
        return 0
    _, _, page_bytes, _, salts, _ = _HEADER.unpack_from(log)
    end, committed = _HEADER.size, 0
    while end + _FRAME.size + page_bytes <= len(log):
        _, n_pages, frame_salts, _ = _FRAME.unpack_from(log, end)
        if frame_salts != salts:
            break  # of a log that was begun anew since
        end += _FRAME.size + page_bytes
        if n_pages:
            committed = end
    return committed


def tear_log(journal: Path, rng: Random) -> str | None:
    """Tear the tail of a journal's log; whoever wrote it must be dead.

    Returns:
        What was done, None when there is no log to tear.
    """
    path = journal.with_name(journal.name + "-wal")
    try:
        log = path.read_bytes()
    except FileNotFoundError:
        return None
    committed = committed_bytes(log)
    if not committed:
        return None
    match rng.randrange(3):
        case 0:
            what, tail = "log cut behind the last commit", b""
        case 1:
            what, tail = "rubbish behind the last commit", rng.randbytes(rng.randrange(1, RUBBISH_BYTES))
        case _:  # the next frame came as far as the disk had time
            what = "torn frame behind the last commit"
            frame = log[_HEADER.size : committed][: rng.randrange(1, RUBBISH_BYTES)]
            tail = frame[: len(frame) // 2] + rng.randbytes(len(frame) - len(frame) // 2)
    with path.open("r+b") as file:
        file.truncate(committed)
        file.seek(committed)
        file.write(tail)
    return what
