"""What a codec has left out, when the disk has changed it: named and set aside, and the device goes on."""

from pathlib import Path

import numpy as np
import pytest
import structlog

from shared.messages import Outcome
from tests.edge_client.builders import RUN, lease
from tests.edge_client.scene import DEVICE, Scene
from tests.edge_client.tasks import AddOne

pytestmark = pytest.mark.virtual_time


async def test_damaged_feedback_is_set_aside_and_never_sent(tmp_path: Path) -> None:
    """By hand: of 200 ones two are sent; then the residual is spoilt, and the next update is of fresh ones again."""
    async with Scene(tmp_path, AddOne(200), codec="top-1-percent") as scene:
        await scene.start(1)
        await scene.until_final(1)
        path = tmp_path / "fleet" / DEVICE / "state" / f"{RUN}.state"
        await scene.until(path.exists)
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with structlog.testing.capture_logs() as logs:
            for number in (2, 3):
                scene.aggregator.orders.append(scene.aggregator.order(number))
                await scene.until_final(number)
        sent = [scene.aggregator.deltas[lease(number)] for number in (1, 2, 3)]
        assert [np.flatnonzero(delta).tolist() for delta in sent] == [[0, 1], [0, 1], [2, 3]]
        assert [delta.max() for delta in sent] == [1, 1, 2]
        assert {receipt.outcome for receipt in scene.aggregator.finals.values()} == {Outcome.ACCEPTED}
    (line,) = [line for line in logs if line["event"] == "local_state_damaged"]
    assert (line["run"], line["cause"]) == (RUN, "it has another checksum")
    assert f"outbox discard {RUN}" in line["remedy"]
    assert path.with_suffix(".damaged").read_bytes() != whole


async def test_codec_that_this_device_does_not_speak_costs_no_training(tmp_path: Path) -> None:
    """The lease fails by name; the log says which there are; the next one is carried out."""
    task = AddOne(200, state=True)
    async with Scene(tmp_path, task) as scene:
        with structlog.testing.capture_logs() as logs:
            await scene.start()
            scene.aggregator.orders.append(scene.aggregator.order(1).model_copy(update={"codec": "morse"}))
            await scene.until_final(1)
            scene.aggregator.orders.append(scene.aggregator.order(2))
            await scene.until_final(2)
        assert len(task.seen) == 1
        assert [(report.lease, report.error) for report in scene.aggregator.reports] == [
            (lease(1), "codec"),
            (lease(2), ""),
        ]
    (line,) = [line for line in logs if line["event"] == "training_failed"]
    assert line["reason"] == "codec"
    assert "no codec 'morse'" in line["cause"]
    assert "there are: float32" in line["cause"]
