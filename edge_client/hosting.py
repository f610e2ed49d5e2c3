"""Several devices in one process: one task object, one training at a time, memory for one model in training.

For rehearsals, and for gateways that stand in for devices too small to train. Each device keeps its own id, folder and
link; the broker cannot tell them from devices of their own. Where training is mostly waiting, as in a rehearsal that
pads it, devices may train side by side, each in a lane of its own.

Not here: processes (`simulator/`).
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self, TypeVar

from broker.transport import Transport
from edge_client.config import EdgeSettings
from edge_client.device_work import spec_of
from edge_client.service import EdgeClient
from edge_client.training import CarryOut, carry_out
from edge_client.training_line import TrainingLine
from shared.blocking import Lane, RunBlocking, Threads
from shared.task import Client, Task
from shared.task_groups import rethrow

__all__ = ["HostedDevice", "run_many"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedDevice:
    """One device of a process.

    Args:
        settings: its own; devices of one fleet usually share them.
        client: its id, and whose data it is.
        transport: its own way to the broker.
        task: its own, of the same model; None: the one that all of them share.
        carry_out: as for `EdgeClient`.
    """

    settings: EdgeSettings
    client: Client
    transport: Transport
    task: Task | None = None
    carry_out: CarryOut = carry_out


async def run_many(
    devices: Sequence[HostedDevice],
    task: Task,
    *,
    run_blocking: RunBlocking | None = None,
    side_by_side: bool = False,
    stop: asyncio.Event | None = None,
) -> None:
    """Run devices until each has ended.

    Args:
        devices: with ids of their own.
        task: which all of them share.
        run_blocking: which all of them share, so that one trains at a time; default: threads.
        side_by_side: each trains in a thread of its own, beside the others, with memory for all of them.
        stop: set it to let all of them end in good order.

    Raises:
        ConfigError: as for `EdgeClient.run`; one device that cannot start ends all.
    """
    if run_blocking is None:
        with Threads() as threads:
            await run_many(devices, task, run_blocking=threads, side_by_side=side_by_side, stop=stop)
        return
    spec = await run_blocking(Lane.TRAINING, lambda: spec_of(task))
    line = TrainingLine()
    own_lanes = ExitStack()
    clients = [
        EdgeClient(
            each.settings,
            each.task or task,
            each.client,
            each.transport,
            run_blocking=own_lanes.enter_context(_OwnTraining(run_blocking)) if side_by_side else run_blocking,
            spec=spec,
            line=None if side_by_side else line,
            carry_out=each.carry_out,
        )
        for each in devices
    ]
    try:
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(client.run(), name=f"device {each.client.id}")
                for client, each in zip(clients, devices, strict=True)
            ]
            stopping = group.create_task(_stop_all(clients, stop or asyncio.Event()), name="stop")
            await asyncio.wait(running)
            stopping.cancel()
    except BaseExceptionGroup as errors:
        rethrow(errors)
    finally:
        own_lanes.close()


class _OwnTraining:
    """See `RunBlocking`: a lane of its own for training, the others' for all else."""

    def __init__(self, others: RunBlocking) -> None:
        self._others, self._own = others, Threads()

    async def __call__(self, lane: Lane, work: Callable[[], T]) -> T:
        return await (self._own if lane is Lane.TRAINING else self._others)(lane, work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._own.close()


async def _stop_all(clients: Sequence[EdgeClient], stop: asyncio.Event) -> None:
    await stop.wait()
    for client in clients:
        client.stop()
