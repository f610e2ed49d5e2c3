"""`python -m broker` as a child of the rehearsal, so that it, too, ends with whoever started it."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.server.choice import KindChoice
from simulator.processes import Child, child_process

__all__ = ["AnsweringBroker", "broker_process"]

LOOK_EVERY_S = 0.02
_NAMES = {"mosquitto": "Mosquitto", "embedded": "embedded (amqtt), for there is no Mosquitto on the PATH"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweringBroker:
    """A broker that answers.

    Args:
        name: which one, for the operator.
        url: for clients on this machine.
        pid: of the broker itself, which is a child of the child.
    """

    name: str
    url: str
    pid: int


@asynccontextmanager
async def broker_process(
    kind: KindChoice, log: Path, environment: Mapping[str, str], *, port: int = 0
) -> AsyncIterator[tuple[Child, AnsweringBroker]]:
    """Run a broker until the context is left.

    Args:
        kind: "auto": Mosquitto, or the embedded one where there is no Mosquitto.
        log: where its output goes.
        environment: of the process.
        port: 0: any that is free.

    Raises:
        FederationError: it does not come up.
    """
    arguments = ["--port", str(port), "--kind", kind, "--json", "--log-level", "warning"]
    async with child_process("broker", "broker", arguments, log=log, environment=environment) as child:
        while (found := _said(log)) is None:
            if not child.is_running:
                raise child.failure(await child.ended())
            await asyncio.sleep(LOOK_EVERY_S)
        name = "embedded (amqtt)" if found["kind"] == kind else _NAMES[found["kind"]]
        yield child, AnsweringBroker(name=name, url=found["url"], pid=int(found["pid"]))


def _said(log: Path) -> dict[str, str] | None:
    """Return the line in which the broker says that it answers, and where."""
    for line in log.read_text(errors="replace").splitlines(keepends=True):
        if line.startswith('{"url"') and line.endswith("\n"):
            found: dict[str, str] = json.loads(line)
            return found
    return None
