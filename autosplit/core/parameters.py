"""The parameters of profiles: numbers with their sources."""

from __future__ import annotations

from pydantic import Field

from autosplit.core.validation import Frozen

__all__ = ["Decibels", "Parameter", "absent"]


class Parameter(Frozen):
    """A number with its source.

    Attributes:
        value: The number, in the unit that its field's name states.
        source: Where it comes from: a document, a measurement, or how it was derived from one.
        assumption: Whether no source supports it.
    """

    value: float = Field(ge=0, le=1e15, allow_inf_nan=False)
    source: str = Field(min_length=3)
    assumption: bool = False

    def times(self, factor: float) -> Parameter:
        """The parameter multiplied; no source supports the result, unless the factor is 1."""
        if factor == 1:
            return self
        return self.model_copy(update={"value": self.value * factor, "assumption": True})


class Decibels(Parameter):
    """A level in decibels with its source; it may be negative.

    Attributes:
        value: The level.
        source: As for `Parameter`.
        assumption: As for `Parameter`.
    """

    value: float = Field(ge=-200, le=200, allow_inf_nan=False)


def absent(value: object) -> bool:
    """Whether an optional key is not given; such keys are left out when a profile is written."""
    return value is None
