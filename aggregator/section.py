"""What every table of the aggregator's TOML is: frozen, and without unknown keys."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Seconds", "Section"]

Seconds = Annotated[float, Field(gt=0, le=1e9)]
"""What the messages that name it allow."""


class Section(BaseModel):
    """A table of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")
