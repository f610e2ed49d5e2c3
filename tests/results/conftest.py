from typing import cast

import pytest

import results.cases
from results.case import load_case
from tests.results.cases.tiny import HERE, Tiny


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """The tiny case, found beside the real ones."""
    monkeypatch.setattr(results.cases, "__path__", [*results.cases.__path__, str(HERE)])
    found = load_case("tiny")
    found.computed, found.broken = [], False  # type: ignore[attr-defined]
    return cast(Tiny, found)
