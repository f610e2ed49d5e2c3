"""A final outcome whose receipt is lost: it is told again, and moves the device's own state exactly once."""

from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import pytest

from shared.messages import Outcome, Receipt
from shared.task import Arrays, Client, Evaluated, Initial, Trained, Work
from shared.topics import ReceiptTopic
from shared.wire import decode
from simulator.fleet import AGGREGATOR, Fleet
from tests.integration.linear import LinearTask, some_settings
from tests.integration.watching import WatchedBroker

ROUNDS = 4


@dataclass
class Counting:
    """Counts, in the state that it keeps on the device, how often what it trained was accepted."""

    linear: LinearTask = field(default_factory=LinearTask)
    counts: list[int] = field(default_factory=list)

    def initial_parameters(self, seed: int) -> Initial:
        """See `Task`."""
        return self.linear.initial_parameters(seed)

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """See `Task`."""
        count = int(work.state["count"]) if "count" in work.state else 0
        self.counts.append(count)
        return changed(self.linear.train(parameters, work, client), state={"count": np.array(count + 1)})

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated:
        """See `Task`."""
        return self.linear.evaluate(parameters, client, state)


@pytest.mark.parametrize("is_killed", [False, True])
async def test_lost_receipt_is_repeated_and_moves_the_local_state_once(tmp_path: Path, is_killed: bool) -> None:
    """Every receipt is lost when it is sent first, with the link or with the whole device; each round counts one."""
    goal = {"report_goal": 1, "over_selection": 1.0, "quorum": 1.0}
    settings = some_settings(tmp_path, round=goal, stop={"rounds": ROUNDS})
    task, device = Counting(), Counting()
    fleet, broker = Fleet(settings, task, tmp_path), WatchedBroker(seed=1)
    fleet.broker = broker
    topic = fleet.topics.build(ReceiptTopic("d0"))
    accepted: list[Receipt] = []
    lost: set[str] = set()

    def lose(published: str, payload: bytes) -> None:
        if published != topic or (receipt := decode(Receipt, payload)).outcome is not Outcome.ACCEPTED:
            return
        accepted.append(receipt)
        if receipt.lease not in lost:
            lost.add(receipt.lease)
            broker.cut("d0")

    broker.traffic[AGGREGATOR].on_publish = lose
    async with fleet:
        fleet.start_aggregator()
        fleet.add("d0", task=device)
        for n_lost in range(1, ROUNDS + 1):
            await fleet.until(lambda n_lost=n_lost: len(lost) == n_lost)  # type: ignore[misc]
            if is_killed:
                await fleet.kill("d0")
                fleet.start("d0")
        assert (await fleet.result()).version == ROUNDS
    assert device.counts == list(range(ROUNDS))
    assert len({receipt.lease for receipt in accepted if receipt.repeat}) >= ROUNDS - 1
