"""Reading frozen objects from YAML, and pydantic's errors as one line."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from autosplit.core.errors import ConfigError

__all__ = ["Frozen", "first_error", "parse_yaml"]

Model = TypeVar("Model", bound=BaseModel)


class Frozen(BaseModel):
    """The base of everything that is read from a file: values never change, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def parse_yaml(kind: type[Model], text: str, origin: str, folder: Path | None = None) -> Model:
    """A frozen object out of YAML.

    Args:
        kind: Class of the object.
        text: YAML.
        origin: Name of the source for error messages.
        folder: What paths of traces are relative to; the working directory when left out.

    Raises:
        ConfigError: No YAML, a missing or unknown key, or a value that makes no sense.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"{origin}: not valid YAML: {' '.join(str(e).split())}") from e
    try:
        return kind.model_validate(data, context={"folder": folder})
    except ValidationError as e:
        raise ConfigError(f"{origin}: {first_error(e)}") from e


def first_error(error: ValidationError) -> str:
    """The first complaint of a pydantic error as one line: `path.to.key: what is wrong`."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "top level"
    more = error.error_count() - 1
    # pydantic puts its own words before those of a validator
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" + (f" (and {more} more)" if more else "")
