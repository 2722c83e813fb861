"""Numbers with their sources, and the base of everything that is read from a profile's YAML."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Decibels", "Figure", "Frozen", "absent"]


class Frozen(BaseModel):
    """Frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Figure(Frozen):
    """A number with its source.

    Attributes:
        value: The number, in the unit that its field's name states.
        source: Where it comes from: a document, a measurement, or how it was derived from one.
        assumption: Whether no source supports it.
    """

    value: float = Field(ge=0, allow_inf_nan=False)
    source: str = Field(min_length=3)
    assumption: bool = False

    def times(self, factor: float) -> Figure:
        """The figure multiplied; no source supports the result, unless the factor is 1."""
        if factor == 1:
            return self
        return self.model_copy(update={"value": self.value * factor, "assumption": True})


class Decibels(Figure):
    """A level in decibels with its source; it may be negative.

    Attributes:
        value: The level.
        source: As for `Figure`.
        assumption: As for `Figure`.
    """

    value: float = Field(ge=-200, le=200, allow_inf_nan=False)


def absent(value: object) -> bool:
    """Whether an optional key is not given; such keys are left out when a profile is written."""
    return value is None
