"""Objects that settings name; tasks are loaded the same way, and tested in `test_task.py`."""

from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.named_objects import load_named


def load(spec: str, folder: Path) -> object:
    """Load something that can be called `go`."""
    return load_named("gadget", spec, folder, ("go",), example="gadgets:best")


def test_object_without_the_method_is_called_for_one_that_has_it(tmp_path: Path) -> None:
    """A function, or a class, makes it; an object that has the method is taken as it is."""
    (tmp_path / "some_gadgets.py").write_text(
        "class Gadget:\n    def go(self): return 7\n\ndef make(): return Gadget()\n\nready = Gadget()\n"
    )
    for name in ("Gadget", "make", "ready"):
        assert type(load(f"some_gadgets:{name}", tmp_path)).__name__ == "Gadget"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("gadgets", "gadget 'gadgets' is not of the form 'module:name'\n  for example gadgets:best"),
        ("math:pi", "gadget 'math:pi' is of type float, without go\n  a gadget has the method go"),
        ("math:tau.x", "'math' has no 'tau.x'"),
    ],
)
def test_what_is_wrong_is_said_in_the_words_of_the_setting(tmp_path: Path, spec: str, words: str) -> None:
    """What it is, what is missing, and what it should have been."""
    with pytest.raises(ConfigError) as raised:
        load(spec, tmp_path)
    assert words in str(raised.value)
