"""Which class of device this is: one word that the aggregator's windows, selection and fairness report go by.

What the operator writes counts; otherwise Linux's device tree is asked, which Raspberry Pis and most Arm boards have.
Elsewhere the class is unknown, "".
"""

import re
from pathlib import Path

__all__ = ["read_device_class"]

_MODEL = Path("/proc/device-tree/model")
_RASPBERRY = re.compile(r"raspberry-pi-(?:(compute-module)-)?(zero-2|zero|[0-9]+)")
MAX_LENGTH = 32


def read_device_class(model: Path = _MODEL) -> str:
    """Return the class that the machine itself tells: "pi-4" of a Raspberry Pi 4, "" where nothing is told.

    Args:
        model: in the form of Linux's /proc/device-tree/model, a text that ends with a NUL.
    """
    try:
        text = model.read_bytes().decode(errors="replace")
    except OSError:
        return ""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    found = _RASPBERRY.match(slug)
    if found is None:
        return slug[:MAX_LENGTH].rstrip("-")
    return f"pi-cm-{found[2]}" if found[1] else f"pi-{found[2]}"
