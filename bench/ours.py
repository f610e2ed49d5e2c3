"""FedMQ as a user runs it: Mosquitto, `python -m aggregator run`, and real devices, several to a process.

Everything is durable: each update is in a synchronised file and in the journal before its receipt, each device keeps
its update in its outbox until then, each version is a synchronised file.

Not here: what is done in a round (`task.py`).
"""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from safetensors.numpy import load_file

from aggregator.history import read_history
from bench.children import environment, until_all_left, while_all_run
from bench.turn import ROUND_LIMIT_S, ContenderName, Meter, Say, Setting, Turn
from bench.work import NAME, deviation
from broker.config import BrokerSettings
from broker.mqtt import MqttTransport
from broker.server.mosquitto import running_mosquitto
from shared.errors import FederationError
from shared.messages import Round
from shared.topics import RoundTopic, Topics
from shared.wire import decode
from simulator.processes import Child, child_process
from simulator.settings_files import as_toml

__all__ = ["Ours"]

Codec: TypeAlias = Literal["float32", "int8"]

RUN: Final = "bench"
"""Of the run and of the fleet."""
WINDOW_S: Final = 600.0
"""No round is cut short: all devices report in every round."""
INT8_STEP: Final = 1 / 126
"""By how much int8 may miss an update of ones, a round."""


class Ours:
    """FedMQ, with its default settings but for those of the rounds.

    Args:
        name: "ours": updates travel as float32, as many bytes as its rival's. "int8": in int8, as they do unless a
            setting says otherwise. "undigested": as float32 and almost without sha-256 (`undigested.py`), which shows
            what digests cost.
    """

    def __init__(self, name: Literal["ours", "int8", "undigested"] = "ours") -> None:
        self.name: ContenderName = name

    async def turn(self, setting: Setting, say: Say) -> Turn:
        """See `Contender`."""
        folder = setting.folder
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(running_mosquitto())
            children: list[Child] = []
            for name, program in _programs(setting, broker.url, codec=self._codec):
                module, *arguments = program if self.name != "undigested" else ["bench.undigested", *program]
                log = folder / f"{name}.log"
                process = child_process(name, module, arguments, log=log, environment=environment(setting))
                children.append(await stack.enter_async_context(process))
            server, *clients = [child.pid for child in children]
            meter = Meter(setting, server=server, broker=broker.pid, clients=clients, say=say)
            await while_all_run(children, _follow(broker.url, setting, meter))
            await until_all_left(children)
        step = INT8_STEP if self._codec == "int8" else 0.0
        _check(folder / RUN, setting, tolerance=step * setting.n_rounds_in_all)
        return meter.result(_worst_lag_ms(folder / RUN / "history.jsonl", setting))

    @property
    def _codec(self) -> Codec:
        return "int8" if self.name == "int8" else "float32"


def _programs(setting: Setting, url: str, *, codec: Codec) -> list[tuple[str, list[str]]]:
    """Write everybody's settings; return (name, module and arguments) of each process, the aggregator's first."""
    path = setting.folder / "aggregator.toml"
    path.write_text(as_toml(_aggregator_settings(setting, url, codec)))
    programs = [("aggregator", ["aggregator", "run", str(path), "--log-level", "warning"])]
    for number, share in enumerate(setting.shares()):
        path = setting.folder / f"devices-{number}.toml"
        path.write_text(as_toml(_device_settings(share, setting, url)))
        programs.append((path.stem, ["edge_client", "--config", str(path), "--log-level", "warning"]))
    return programs


def _aggregator_settings(setting: Setting, url: str, codec: Codec) -> dict[str, Any]:
    return {
        "task": "bench.task:task",
        "fleet": RUN,
        "run": RUN,
        "broker": {"url": url},
        "round": {
            "mode": "sync",
            "report_goal": setting.case.n_devices,
            "over_selection": 1.0,
            "quorum": 1.0,
            "window_s": {"min": WINDOW_S, "max": WINDOW_S},
        },
        "training": {"codec": codec},
        "transfer": {"reconnect_window_s": 0.0},  # everybody comes at once, so that the warm-up is short
        "evaluation": {"central_every": 0},
        "stop": {"rounds": setting.n_rounds_in_all},
        "output": {"folder": str(setting.folder), "keep_best": False},
    }


def _device_settings(share: range, setting: Setting, url: str) -> dict[str, Any]:
    return {
        "task": "bench.task:task",
        "fleet": RUN,
        "broker": {"url": url},
        "folder": str(setting.folder / "devices"),
        "until_finished": True,
        "devices": [{"id": f"device-{number}"} for number in share],
    }


async def _follow(url: str, setting: Setting, meter: Meter) -> None:
    """Tell the meter of every version, as any subscriber learns of it, until the last one that counts.

    Raises:
        TimeoutError: a round does not end.
    """
    loop = asyncio.get_running_loop()
    version = 0
    async with MqttTransport(BrokerSettings(url=url), "bench-watch").connect() as connection:
        await connection.subscribe([Topics(RUN).build(RoundTopic(RUN))])
        messages = connection.messages()
        while version < setting.n_rounds_in_all - 1:
            async with asyncio.timeout(ROUND_LIMIT_S):
                manifest = decode(Round, (await anext(messages)).payload)
            if manifest.model.version > version:
                version = manifest.model.version
                meter.round_ended(loop.time())


def _check(run_folder: Path, setting: Setting, *, tolerance: float) -> None:
    """Refuse a run whose model is not what its rounds should have made of it.

    Raises:
        FederationError: it is not, so that nothing measured means anything.
    """
    model = load_file(run_folder / "final.safetensors")[NAME]
    difference = deviation(model, setting.n_rounds_in_all)
    if model.size != setting.case.n_params or difference > tolerance:
        raise FederationError(f"the final model is wrong by up to {difference:g}; the run is in {run_folder}")


def _worst_lag_ms(history: Path, setting: Setting) -> float | None:
    """Return the p99 of how late the aggregator's loop was, of the worst round that counts; None: it does not say."""
    rounds = [each for each in read_history(history) if 1 < each.version < setting.n_rounds_in_all]
    return max((each.loop_lag_ms.p99 for each in rounds if each.loop_lag_ms), default=None)
