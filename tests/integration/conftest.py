import pytest


@pytest.fixture(autouse=True)
def _no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without matplotlib: a picture a run is most of what these tests would take."""
    monkeypatch.setattr("aggregator.plot.find_spec", lambda name: None)
