from broker.simulated import SimulatedBroker
from simulator.tapping import TappedTransport


async def test_everything_that_is_published_is_shown_before_it_leaves() -> None:
    """The rest of a connection is as it was."""
    broker = SimulatedBroker()
    shown: list[tuple[str, bytes]] = []
    tapped = TappedTransport(broker.transport("a"), lambda topic, payload: shown.append((topic, payload)))
    async with tapped.connect() as connection:
        await connection.subscribe(["t"])
        await connection.publish("t", b"payload", retained=True)
        assert connection.max_payload_bytes is None
        message = await anext(connection.messages())
    assert shown == [("t", b"payload")]
    assert (message.topic, message.payload) == ("t", b"payload")
    assert broker.retained["t"] == b"payload"
