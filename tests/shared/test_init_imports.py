import subprocess
import sys
from pathlib import Path

import pytest

import shared

FOLDER = Path(shared.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(FOLDER).with_suffix("").parts) for path in FOLDER.rglob("*.py") if path.stem != "__init__"
)
DOORS = ("torch_task.", "sklearn_task")
"""What a user imports who has installed what it stands on."""
HEAVY = ["torch", "sklearn", "matplotlib", "aiomqtt", "typer"]


def test_only_what_is_made_for_a_library_loads_it() -> None:
    """A Raspberry Pi with a NumPy task never installs it; one process imports all the rest and looks."""
    names = [f"shared.{name}" for name in MODULES if not name.startswith(DOORS)]
    program = (
        f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
        f"sys.exit(','.join(name for name in {HEAVY} if name in sys.modules) or 0)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is_and_what_it_offers(name: str) -> None:
    """A docstring, and `__all__` that names only what is there."""
    module = __import__(f"shared.{name}", fromlist=["*"])
    assert module.__doc__
    assert set(module.__all__) <= set(vars(module))
    assert list(module.__all__) == sorted(module.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))


def test_a_training_does_not_load_torchs_compiler() -> None:
    """80 MB and two seconds of each process of a rehearsal, for nothing."""
    program = (
        "import sys\nfrom shared.torch_task import adam, momentum\n"
        "from tests.shared.torch_examples import a_task, train\n"
        "train(a_task(max_gradient_norm=1.0)), train(a_task(), algorithm='fedsgd')\n"
        "[train(a_task(optimizer=each, keep_optimizer=True), mu=1.0) for each in (adam, momentum)]\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
