"""Loads structlog and typer without rich, which both take along where it is installed: 12 MiB of an idle device's 60.

To be imported first, by the command alone. Whoever imports rich later, such as a task, gets it.
"""

import sys

__all__: list[str] = []

if "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]  # how the import system says: not installed
    import structlog
    import typer

    _ = structlog, typer
    del sys.modules["rich"]
