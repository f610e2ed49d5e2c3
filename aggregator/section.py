"""What every table of the aggregator's TOML is: frozen, without unknown keys; and what a table is that has a name."""

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Seconds", "Section", "filled_by_name", "known_name", "no_such"]

Seconds = Annotated[float, Field(gt=0, le=1e9)]
"""What the messages that name it allow."""


class Section(BaseModel):
    """A table of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def known_name(what: str, name: str, built_in: Collection[str]) -> str:
    """Return the name of one of ours, or of a user's own, as it is.

    Args:
        what: it names, in words, such as "rule".
        name: as it is written.
        built_in: names of ours.

    Raises:
        ValueError: it is neither.
    """
    if name not in built_in and not re.fullmatch(r"[^:\s]+:[^:\s]+", name):
        raise ValueError(f"{no_such(what, name, built_in)}, or your own as module:name")
    return name


def no_such(what: str, name: str, there: Collection[str]) -> str:
    """Return the words for a name that is none of those there are, with the nearest if one is near."""
    near = "".join(f"did you mean {each}? " for each in difflib.get_close_matches(name, there, 1))
    return f"there is no such {what}; {near}there are {', '.join(there)}"


def filled_by_name(given: Any, built_in: Mapping[str, Mapping[str, Any]], *, default: str) -> Any:
    """Return a table with the defaults of what it names, so that the journal holds what a run was made with.

    Args:
        given: a table, or a bare name, which is short for a table with nothing else; anything else is left for others
            to refuse.
        built_in: the defaults of each of ours, by its name.
        default: the name where there is none.
    """
    given = {"name": given} if isinstance(given, str) else given
    if not isinstance(given, Mapping):
        return given
    defaults = built_in.get(str(given.get("name", default)), {})
    return {**defaults, **{key: value for key, value in given.items() if value is not None}}
