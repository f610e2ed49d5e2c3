"""Runs a broker: Mosquitto where there is one, otherwise the embedded one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal, TypeAlias

from broker.server.embedded_process import has_embedded, running_embedded
from broker.server.mosquitto import find_mosquitto, running_mosquitto
from broker.server.process import BrokerKind, RunningBroker
from shared.errors import ConfigError

__all__ = ["KindChoice", "RunningBroker", "running_broker"]

KindChoice: TypeAlias = Literal["auto", "mosquitto", "embedded"]


@asynccontextmanager
async def running_broker(
    kind: KindChoice = "auto", *, port: int = 0, host: str = "127.0.0.1"
) -> AsyncIterator[RunningBroker]:
    """Run a broker until the context is left.

    Args:
        kind: "auto": Mosquitto, or the embedded one where there is no Mosquitto.
        port: 0: any that is free; the answer is in what this yields.
        host: address to listen on. Anything but 127.0.0.1 lets the network in, without a password.

    Raises:
        ConfigError: there is none to run, the port is taken, or it does not come up.
    """
    run = running_mosquitto if _choose(kind) == "mosquitto" else running_embedded
    async with run(port=port, host=host) as running:
        yield running


def _choose(kind: KindChoice) -> BrokerKind:
    if kind != "auto":
        return kind
    if find_mosquitto() is not None:
        return "mosquitto"
    if has_embedded():
        return "embedded"
    raise ConfigError(
        "there is neither a mosquitto on this machine nor the embedded broker",
        hint="Debian, Ubuntu: apt install mosquitto. Or: pip install 'fedmq[embedded]'",
    )
