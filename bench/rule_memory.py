"""`python -m bench.rule_memory`: what one round's updates take of memory and time under a rule over the whole cohort.

A process of its own does what the aggregator does: each update comes into a part file chunk by chunk, is verified from
there and folded; then the version is made, cut for the wire and written. The updates are drawn at random. Its peak is
that of the whole process, with Python and NumPy, which alone are some 60 MiB.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from aggregator.aggregation import Aggregation
from aggregator.config import Settings
from aggregator.folding import verify
from aggregator.model_store import ModelStore, ServerState
from aggregator.part_files import PartFiles
from aggregator.publishing import model_blob
from aggregator.records import AcceptRecord
from bench.children import ROOT
from shared.blocking import at_once
from shared.chunking import ChunkLayout, sha256_hex
from shared.codecs import CODECS
from shared.errors import FederationError
from shared.messages import Report, Reported
from shared.parameters import ParameterSpec
from shared.task import Initial

__all__ = ["RuleFigures", "measure"]

N_UPDATES, UPDATE_MIB = 100, 10
RULE = "median"
CHUNK_BYTES = 262_144
SHOWN = 64
"""Parameters of which every update is remembered, to see whether their median is in the version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFigures:
    """What was measured.

    Args:
        rule: its name.
        n_updates: of the round.
        update_bytes: of each.
        before_bytes: resident, before the first update came.
        peak_bytes: resident at most, from the first instruction to the written version.
        take_s: seconds for the updates to come, and be verified and folded.
        make_s: seconds to make and write the version.
    """

    rule: str
    n_updates: int
    update_bytes: int
    before_bytes: int
    peak_bytes: int
    take_s: float
    make_s: float

    def line(self) -> str:
        """Return it for people."""
        size = f"{self.n_updates} updates of {self.update_bytes / 2**20:g} MiB"
        memory = f"{self.peak_bytes / 2**20:.0f} MiB at most, {self.before_bytes / 2**20:.0f} before them"
        return (
            f"{self.rule} over {size}: {memory}; {self.take_s:.1f} s to take them, {self.make_s:.1f} s for the version"
        )


def measure(rule: str, *, n_updates: int, update_bytes: int, folder: Path) -> RuleFigures:
    """Measure a rule in a process of its own.

    Args:
        rule: one without numbers of its own, "mean" included.
        n_updates: that come.
        update_bytes: of each, a multiple of four.
        folder: below which the files lie, for as long as it takes: twice the updates.

    Raises:
        FederationError: the process has failed.
    """
    child = (sys.executable, "-m", "bench.rule_memory")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        ran = subprocess.run(
            [*child, "--child", place, f"--rule={rule}", f"--updates={n_updates}", f"--update-bytes={update_bytes}"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            capture_output=True,
            text=True,
            check=False,
        )
    if ran.returncode:
        raise FederationError(f"it has failed: {ran.stderr[-2000:]}")
    return RuleFigures(**json.loads(ran.stdout))


async def _measured(rule: str, n_updates: int, update_bytes: int, folder: Path) -> RuleFigures:
    """Take the updates and make the version, in this process.

    Raises:
        FederationError: the version is not the median, where it should be.
    """
    n_params = update_bytes // 4
    settings = Settings.model_validate(
        {
            "task": "bench.task:AddOne",
            "round": {"report_goal": n_updates},
            "training": {"codec": "float32"},
            "server": {"rule": rule},
            "stop": {"rounds": 1},
        }
    )
    spec = ParameterSpec.of(Initial({"w": np.zeros(n_params, np.float32)}))
    state = ServerState(version=0, round_id=0, spec=spec, parameters=np.zeros(n_params, np.float32))
    files = PartFiles(folder / "updates")
    aggregation = Aggregation(settings, state, files, ModelStore(folder / "versions"), at_once)
    heads, records = np.empty((n_updates, SHOWN), np.float32), []
    before_bytes, began = _memory("VmRSS"), time.perf_counter()
    for i in range(n_updates):
        record = _taken(files, i, n_params, heads[i])
        verify(CODECS["float32"], files.open(record.lease).data, n_params)
        await aggregation.fold(record)
        records.append(record)
    took, began = time.perf_counter() - began, time.perf_counter()
    made = await aggregation.make(1, 1, records)
    model_blob(made.parameters, made.spec, made.version, CHUNK_BYTES)
    await aggregation.write(made)
    make_s = time.perf_counter() - began
    if rule == "median" and not np.allclose(made.parameters[:SHOWN], np.median(heads, axis=0), atol=1e-6):
        raise FederationError("the version is not the median of its updates")
    return RuleFigures(
        rule=rule,
        n_updates=n_updates,
        update_bytes=update_bytes,
        before_bytes=before_bytes,
        peak_bytes=_memory("VmHWM"),
        take_s=took,
        make_s=make_s,
    )


def _taken(files: PartFiles, number: int, n_params: int, head: NDArray[np.float32]) -> AcceptRecord:
    """Let an update come in chunks; return its row.

    Args:
        files: of the run.
        number: of the update, from 0 on.
        n_params: of it.
        head: (SHOWN,) float32, filled with its first values.
    """
    update = np.random.default_rng(number).standard_normal(n_params, dtype=np.float32)
    head[:] = update[:SHOWN]
    data = memoryview(update.tobytes())
    lease, device, digest = f"{number:032x}", f"d{number}", sha256_hex(data)
    offer = Report(
        lease=lease,
        run="bench",
        outcome=Reported.TRAINED,
        codec="float32",
        num_examples=1,
        n_steps=1,
        size=len(data),
        sha256=digest,
        chunk_bytes=CHUNK_BYTES,
    )
    layout = ChunkLayout(len(data), CHUNK_BYTES)
    files.begin(offer)
    files.write(lease, ((index, bytes(layout.cut(data, index))) for index in range(len(layout))))
    if files.digest(lease) != digest:
        raise FederationError(f"update {number} came with other bytes")
    files.finish(lease)
    return AcceptRecord(
        seq=number + 1,
        lease=lease,
        device=device,
        round_id=1,
        base_version=0,
        into=1,
        weight=1.0,
        num_examples=1,
        n_steps=1,
        clip_scale=1.0,
        codec="float32",
        size=len(data),
        sha256=digest,
    )


def _memory(name: str) -> int:
    """Return a line of /proc/self/status in bytes. The peak of getrusage may be that of the process before `exec`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main(
    rule: Annotated[str, typer.Option(help="one without numbers of its own")] = RULE,
    updates: Annotated[int, typer.Option(min=1, help="of the round")] = N_UPDATES,
    update_bytes: Annotated[int, typer.Option(min=4 * SHOWN, help="of each, a multiple of four")] = UPDATE_MIB * 2**20,
    folder: Annotated[Path, typer.Option(help="of the files: twice the updates")] = ROOT / "bench" / ".work",
    child: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print the peak of memory, and the seconds."""
    if child is not None:
        typer.echo(json.dumps(asdict(asyncio.run(_measured(rule, updates, update_bytes, child)))))
        return
    folder.mkdir(parents=True, exist_ok=True)
    typer.echo(measure(rule, n_updates=updates, update_bytes=update_bytes, folder=folder).line())


if __name__ == "__main__":
    typer.run(main)
