"""Flower's strategies in its own environment: `python -m bench --cases strategies` runs them; here, what fails."""

from pathlib import Path

import pytest

from bench.strategy_runs import compare_strategies
from shared.errors import FederationError


async def test_environment_that_fails_says_so(tmp_path: Path) -> None:
    """The last words of what failed; no half a comparison."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho there is no flwr here\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(FederationError, match="there is no flwr here"):
        await compare_strategies(broken, tmp_path / "work", lambda _: None)
