"""The report of a run that really ran: the aggregator and its devices in virtual time, with notebooks."""

import asyncio
import json
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from edge_client.config import EdgeSettings
from edge_client.hosting import HostedDevice, run_many
from shared.task import Client, ClientId
from simulator.__main__ import app
from simulator.containers.places import Places
from simulator.fleet import Fleet
from simulator.inline_blocking import InlineBlocking
from simulator.run_report import report_of
from simulator.torture_notes import Notebook, NotingTransport
from simulator.virtual_time import run_in_virtual_time
from tests.integration.linear import LinearTask, some_settings

DEVICES = ["porch-1", "porch-2", "pocket-1"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by three devices, which wrote down what they offered and what they were told."""
    folder = tmp_path_factory.mktemp("runs")
    return run_in_virtual_time(_whole_run(folder), limit_s=10_000)


async def _whole_run(folder: Path) -> Path:
    settings = some_settings(folder)
    task, stop = LinearTask(), asyncio.Event()
    async with Fleet(settings, task, folder) as fleet:
        places = Places(settings.output.folder / (settings.run or ""))
        places.make()
        edge = EdgeSettings(fleet=settings.fleet, folder=places.devices)
        devices = [
            HostedDevice(
                settings=edge,
                client=Client(id=ClientId(device), partition=(index, len(DEVICES))),
                transport=NotingTransport(
                    fleet.broker.transport(device), device, fleet.topics, Notebook(places.notes / f"{device}.jsonl")
                ),
            )
            for index, device in enumerate(DEVICES)
        ]
        fleet.start_aggregator()
        lanes = InlineBlocking(Random(1))
        hosting = asyncio.ensure_future(run_many(devices, task, run_blocking=lanes, stop=stop))
        await fleet.result()
        stop.set()
        await hosting
    (places.links / "porch-1.json").write_text('{"up": 2500000, "down": 1000}')
    places.chaos.write_text('{"at_s": 1.0, "kind": "broker_restart", "lasts_s": 3.0, "devices": [], "failed": ""}\n')
    return places.run_folder


def said(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and output of `simulator report`."""
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    return result.exit_code, result.output


def test_run_of_which_nothing_was_lost_is_well(run_folder: Path) -> None:
    """Exit 0; rounds, shares by class, bytes, chaos and the check are there, for a person and for a program."""
    code, text = said(run_folder)
    assert code == 0, text
    for words in ("to its end", "Leases:   porch:", "2.5 MB up", "1 x broker restart", "nothing lost"):
        assert words in text
    code, text = said(run_folder, "--json")
    found = json.loads(text)
    assert code == 0
    assert found["classes"]["all"]["devices"] == 3
    assert found["check"]["violations"] == []
    assert found["check"]["updates"] >= found["check"]["accepted"] > 0
    assert len(found["round_s"]) == found["committed"]


def test_device_that_was_told_otherwise_is_a_broken_promise(run_folder: Path) -> None:
    """A notebook that contradicts the journal: exit 1, with device and lease."""
    notes = Places(run_folder).notes / "porch-2.jsonl"
    before = notes.read_text()
    try:
        notes.write_text(before.replace('"outcome": "accepted"', '"outcome": "rejected"'))
        code, text = said(run_folder)
    finally:
        notes.write_text(before)
    assert code == 1
    assert "PROMISES BROKEN" in text
    assert "porch-2 was told ['rejected'] of lease" in text


def test_run_without_notebooks_has_no_check(run_folder: Path, tmp_path: Path) -> None:
    """A run of real devices is counted, and nothing is claimed of what nobody wrote down."""
    for name in ("journal.sqlite", "history.jsonl"):
        (tmp_path / name).write_bytes((run_folder / name).read_bytes())
    found = report_of(tmp_path)
    assert found.verdict is None
    assert found.is_well
    assert any("no device wrote down" in line for line in found.lines())


def test_folder_that_is_no_run_s_is_refused(tmp_path: Path) -> None:
    """Exit 2, with what to name instead."""
    code, text = said(tmp_path)
    assert code == 2
    assert "there is no journal" in text
