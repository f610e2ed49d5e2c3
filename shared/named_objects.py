"""What a user names in settings as "module:name": a task, a selection rule.

A module that lies beside the settings is found before one that is installed, so that both may lie in one folder.

Not here: what such an object has to do (`task.py`; `aggregator/selection.py`).
"""

import importlib
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared.errors import ConfigError

__all__ = ["load_named"]


def load_named(what: str, spec: str, folder: Path, methods: Sequence[str], *, example: str) -> object:
    """Import an object.

    Args:
        what: it is, in words, such as "task".
        spec: "module:name", where name is the object or a callable without arguments that returns it.
        folder: where the module is looked for first (the TOML's folder); then come the current folder and what is
            installed.
        methods: that it must have.
        example: of a spec.

    Raises:
        ConfigError: the string is not of that form, the import fails, or what it names lacks a method.
    """
    named = f"{what} {spec!r}"
    module_name, colon, name = spec.partition(":")
    if not (colon and module_name and name):
        raise ConfigError(f"{named} is not of the form 'module:name'", hint=f"for example {example}")
    places = list(dict.fromkeys(map(str, (folder.resolve(), Path.cwd()))))
    for place in reversed(places):  # the last one inserted is searched first
        if place not in sys.path:
            sys.path.insert(0, place)
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported, or end
        cause = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{named}: importing {module_name!r} failed with {cause}",
            hint=_place_of(error) or f"looked in {', in '.join(places)} and among the installed packages",
        ) from error
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        public = ", ".join(sorted(n for n in vars(importlib.import_module(module_name)) if not n.startswith("_")))
        raise ConfigError(f"{named}: {module_name!r} has no {name!r}", hint=f"it has: {public}") from error
    if (isinstance(found, type) or _missing(found, methods)) and callable(found):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{named}: calling {name}() failed with {type(error).__name__}: {error}") from error
    missing = _missing(found, methods)
    if missing or isinstance(found, type):
        article = "an" if what[0] in "aeiou" else "a"
        raise ConfigError(
            f"{named} is of type {type(found).__name__}, without {', '.join(missing) or 'being an instance'}",
            hint=f"{article} {what} has the method{'s' * (len(methods) > 1)} {', '.join(methods)}",
        )
    return found


def _missing(found: object, methods: Sequence[str]) -> list[str]:
    return [method for method in methods if not callable(getattr(found, method, None))]


def _place_of(error: BaseException) -> str:
    """Return file and line of what failed in a module while it was imported; "" when the module was not found."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"in {error.filename}, line {error.lineno}"
    frames = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in (__file__, importlib.__file__) and not frame.filename.startswith("<frozen importlib")
    ]
    installed = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    own = [(file, line) for file, line in frames if not file.startswith((*installed, str(Path(__file__).parent)))]
    # the line of the user's that called NumPy says more than the line of NumPy's that raised
    return "in {}, line {}".format(*(own or frames)[-1]) if frames else ""
