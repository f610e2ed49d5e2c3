"""`python -m broker`: a local broker, until Ctrl-C or SIGTERM.

Exit codes: 0 ended by a signal, 1 the broker ended by itself, 2 it cannot be run (not installed, port taken).
"""

import asyncio
import json
import signal
from typing import Annotated

import typer

from broker.server.choice import KindChoice, running_broker
from shared.errors import ConfigError
from shared.logs import LogLevel, set_up_logs

__all__ = ["app"]

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def main(
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0: any that is free.")] = 1883,
    host: Annotated[
        str, typer.Option(help="Address to listen on. 0.0.0.0 lets your network in, and without a password.")
    ] = "127.0.0.1",
    kind: Annotated[
        KindChoice, typer.Option(help="auto: Mosquitto, or the embedded one where there is no Mosquitto.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON: url, kind, pid.")] = False,
    log_level: Annotated[LogLevel, typer.Option(help="debug shows what the broker itself says.")] = "info",
) -> None:
    """Run an MQTT broker for a demo, for tests, or for devices on your network.

    Its URL goes to standard output, the log to standard error. Then, in other terminals:

        python -m aggregator run examples/digits.toml

        python -m edge_client --broker mqtt://127.0.0.1:1883 --fleet demo --task examples.digits:task

        mosquitto_sub -t 'fl/v1/+/from/+/status' -v

    Mosquitto runs with the project's mosquitto.conf, which says how to add passwords and certificates. A broker that
    other machines use is better run by the system: `mosquitto -c mosquitto.conf`.

    Ends at Ctrl-C or SIGTERM. Exit codes: 0 ended so, 1 the broker ended by itself, 2 it cannot be run.
    """
    set_up_logs(log_level)
    try:
        exit_code = asyncio.run(_serve(kind, host, port, as_json))
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from error
    raise typer.Exit(exit_code)


async def _serve(kind: KindChoice, host: str, port: int, as_json: bool) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running_broker(kind, port=port, host=host) as running:
        facts = {"url": running.url, "kind": running.kind, "pid": running.pid}
        typer.echo(json.dumps(facts) if as_json else f"{running.url} ({running.kind}, pid {running.pid})")
        ended = asyncio.create_task(running.wait(), name="broker")
        stopped = asyncio.create_task(stop.wait(), name="signal")
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not stop.is_set():
            typer.echo(f"the broker ended by itself, exit code {ended.result()}; --log-level debug says why", err=True)
            return 1
    return 0


if __name__ == "__main__":
    app()
