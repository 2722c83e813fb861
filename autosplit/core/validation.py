"""Reading YAML, frozen objects out of it, and pydantic's errors as one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from autosplit.core.errors import ConfigError
from autosplit.runtime.standalone.errors import printable
from autosplit.runtime.standalone.files import MOST_DEPTH

__all__ = ["Frozen", "first_error", "load_yaml", "parse_yaml"]

_MOST_CHARACTERS = 1 << 20
_MOST_VALUES = 100_000  # with every alias replaced by what it stands for
_INTEGER, _MOST_DIGITS = "tag:yaml.org,2002:int", 400
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with libyaml

Model = TypeVar("Model", bound=BaseModel)


class Frozen(BaseModel):
    """The base of everything that is read from a file: values never change, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def load_yaml(text: str, origin: str) -> Any:
    """What stands in YAML: plain data of a bounded size and depth.

    Args:
        text: YAML.
        origin: Name of the source for error messages.

    Raises:
        ConfigError: It is none, or larger than anything that autosplit reads.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ConfigError(f"{origin}: {len(text):,} characters of YAML; at most {_MOST_CHARACTERS:,} are read")
    loader = None
    try:
        # event by event first: libyaml overruns its stack where it builds what is nested too deeply
        depth = 0
        for number, event in enumerate(yaml.parse(text, _Loader)):
            if number > 2 * _MOST_VALUES:
                raise ValueError(f"more than {_MOST_VALUES:,} values, which nothing that is read here has")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:
                raise ValueError(f"nested deeper than {MOST_DEPTH} levels")
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        values = _values(node, {})
        if values > _MOST_VALUES:
            raise ValueError(f"{values:,} values, its aliases replaced; at most {_MOST_VALUES:,} are read")
        return loader.construct_document(node)
    except Exception as e:  # constructors of tagged values, such as dates, raise whatever they like
        raise ConfigError(f"{origin}: not valid YAML: {printable(e)}") from e
    finally:
        if loader is not None:
            loader.dispose()


def _values(node: Any, known: dict[int, int]) -> int:
    """Values in a tree of YAML, an alias counted as what it stands for: nine lines can stand for a billion."""
    if isinstance(node, yaml.ScalarNode):
        if node.tag == _INTEGER and len(node.value) > _MOST_DIGITS:
            raise ValueError(f"a number of {len(node.value)} digits")
        return 1
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES + 1  # what an alias inside of its own anchor would count
        children = [n for pair in node.value for n in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_values(child, known) for child in children)
    return known[id(node)]


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
    data = load_yaml(text, origin)
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
