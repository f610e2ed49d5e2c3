"""`python -m edge_client conditions`: what this machine says of itself, and whether it would take part now.

Not here: reading it (`conditions.py`), the rules (`eligibility.py`).
"""

import json as json_lines
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edge_client.conditions import read_conditions
from edge_client.config import EdgeSettings
from edge_client.device_class import read_device_class
from edge_client.eligibility import refusal_of, rules_of
from shared.config import load_settings
from shared.errors import ConfigError

__all__ = ["conditions"]


def conditions(
    config: Annotated[Path | None, typer.Option(help="TOML of the device, whose [eligibility] holds.")] = None,
    data: Annotated[Path | None, typer.Option(help="This device's data, for max_data_age_h.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what this machine says of itself, and whether it would take part now. Starts nothing.

    Exit codes: 0 it would; 1 it would not, and the last line says why; 2 a setting is wrong.
    """
    try:
        settings = load_settings(EdgeSettings, config, {"data": str(data) if data else None})
    except ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    found = read_conditions(data=settings.data, metered_interfaces=settings.eligibility.metered_interfaces)
    refusal = refusal_of(found, rules_of(settings.eligibility))
    facts = {"device_class": settings.device_class or read_device_class() or None, **asdict(found)}
    if json:
        verdict = None if refusal is None else {"reason": str(refusal.reason), "detail": refusal.detail}
        typer.echo(json_lines.dumps({**facts, "refusal": verdict}))
    else:
        for name, value in facts.items():
            typer.echo(f"{name:<18} {'unknown' if value is None else value}")
        typer.echo("takes part" if refusal is None else f"does not take part: {refusal.reason}: {refusal.detail}")
    if refusal is not None:
        raise typer.Exit(1)
