"""What is kept of a benchmark: every turn as it was measured, where it was measured, and the tables."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.fleets import FleetResults, fleets_table, stages_table
from bench.strategies import Comparison, strategies_table
from bench.table import Results, ratios_table, values_table
from broker.server.mosquitto import find_mosquitto

__all__ = ["Report", "arrangement", "machine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A benchmark that is over, or as far as it got.

    Args:
        at: when it began.
        arrangement: what was run and how, in sentences.
        machine: where.
        results: what was measured.
        fleets: what was measured of simulated fleets.
        strategies: how far Flower's are from ours.
    """

    at: datetime
    arrangement: Sequence[str]
    machine: dict[str, str]
    results: Results
    fleets: FleetResults = field(default_factory=dict)
    strategies: Sequence[Comparison] = ()

    def as_json(self) -> str:
        """Return all of it."""
        results = {
            str(case): {name: [asdict(turn) for turn in turns] for name, turns in turns_of.items()}
            for case, turns_of in self.results.items()
        }
        fleets = {
            name: {contender: [asdict(run) for run in runs] for contender, runs in runs_of.items()}
            for name, runs_of in self.fleets.items()
        }
        facts: dict[str, Any] = {
            "at": self.at.isoformat(timespec="seconds"),
            "machine": self.machine,
            "arrangement": list(self.arrangement),
            "results": results,
            "fleets": fleets,
            "strategies": [asdict(each) for each in self.strategies],
        }
        return json.dumps(facts, indent=1)

    def as_markdown(self) -> str:
        """Return it for people."""
        parts = [f"# Benchmark of {self.at:%Y-%m-%d %H:%M} UTC"]
        parts.append("\n".join(f"* {sentence}" for sentence in self.arrangement))
        parts.append("\n".join(f"* {name}: {value}" for name, value in self.machine.items()))
        tables = (values_table(self.results) if self.results else [], ratios_table(self.results))
        for table in (*tables, fleets_table(self.fleets), stages_table(self.fleets), strategies_table(self.strategies)):
            if table:
                parts.append("\n".join(_markdown(table)))
        return "\n\n".join(parts) + "\n"

    def save(self, folder: Path) -> Path:
        """Write both forms; return the path of the one for people."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.at:%Y-%m-%d-%H%M}.md"
        path.write_text(self.as_markdown())
        path.with_suffix(".json").write_text(self.as_json() + "\n")
        return path


def arrangement(*, n_turns: int, n_rounds: int, n_processes: int, flower: str) -> list[str]:
    """Return what was run and how, in sentences.

    Args:
        n_turns: of each contender and case.
        n_rounds: measured in each turn.
        n_processes: of clients.
        flower: its version.
    """
    return [
        "The work: every device fetches a float32 model, adds one to it and sends it back. No learning. A contender "
        "whose final model is not the first one plus the number of rounds has failed; for FedMQ that is to the bit, "
        "with int8 to a 126th of each update.",
        f"{n_turns} turns of each contender, one contender after the other; in each one round to warm up, {n_rounds} "
        "that are measured, one to wind up. Shown is the median over turns, in brackets the least and the most.",
        f"Everything runs on this machine. Devices are divided among {n_processes} processes: for FedMQ and the pipe "
        "as tasks of an event loop, for Flower as threads.",
        "FedMQ: `python -m aggregator run` and `python -m edge_client` with default settings, Mosquitto with the "
        "project's mosquitto.conf; goal and quorum are all devices. Each update is in a synchronised file and in the "
        "journal before its receipt, and in the outbox of its device until then; each version is a synchronised file.",
        "FedMQ with int8: the same, with updates of a quarter of the bytes; rows without it send float32, as Flower "
        "does. Its MB/s are those of float32.",
        "FedMQ without digests: the same programs, each sha-256 replaced by one of 64 bytes.",
        f"Flower {flower}: `start_server` with FedAvg, `start_client`, without TLS. Nothing is durable.",
        "Bare pipe: each chunk of 120 KiB from aiomqtt to Mosquitto to every device, and as many bytes back from each; "
        "QoS 1, 16 chunks unacknowledged, TCP_NODELAY. Nothing is kept, checked or added.",
        "MB/s are payload, up and down, of 10^6 bytes. CPU is that of the server's process and its children, and of "
        "the broker; devices, which a fleet has elsewhere, stand beside it. Peak RSS is VmHWM, most over all turns, of "
        "the server's process alone: the child in which the aggregator would evaluate is idle here. Loop lag is the "
        "p99 of the worst round.",
        "Simulated fleets: the real aggregator and the real devices in one process, on a broker in memory and in "
        "virtual time; training is real and takes 0.5 to 2 s of it; links, digests and the devices' files take "
        "none. Devices keep their files in memory; the aggregator's journal and versions are on disk. A row is one "
        "run in a process of its own. Flower's simulation runs on Ray with an actor a processor; fits a second are "
        "those after the first round.",
        f"Strategies: Flower {flower}'s of `flwr.serverapp.strategy` and ours, given the same first model of 2,000 "
        "parameters and, in each of 20 rounds, the same deltas, examples and losses of 10 clients. Apart is the "
        "largest |ours − Flower's| / max(1, |Flower's|) of a parameter in any round: as it is; with Flower's "
        "departure from the paper built into ours; and the same, with float32 arrays given to Flower instead of "
        "float64. Ours keeps model and state in float32. Moved is the largest |Flower's − first|.",
    ]


def machine() -> dict[str, str]:
    """Return what this machine is, and what is installed."""
    info = Path("/proc/cpuinfo").read_text()
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    memory = Path("/proc/meminfo").read_text().split()[1]
    mosquitto = find_mosquitto()
    command = [str(mosquitto), "-h"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout if mosquitto else ""
    return {
        "CPU": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "memory": f"{int(memory) / 2**20:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "broker": said.splitlines()[0] if said else "none",
        "libraries": ", ".join(f"{name} {version(name)}" for name in ("aiomqtt", "paho-mqtt", "numpy")),
    }


def _markdown(table: Sequence[Sequence[str]]) -> list[str]:
    head, *rows = table
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
