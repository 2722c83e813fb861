"""`operators.json` of a bundle: what each of its networks has to do, so that a timed bundle tells about other plans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..bundle.typed_json import value_of
from ..errors import BundleError
from ..files import read_json

__all__ = ["C_STEPS", "OPERATORS", "OperatorTable", "Operators"]

OPERATORS = "operators.json"
"""The file's name."""

C_STEPS = "c"
"""Stands for the C sources where other entries name an ONNX file; their names are the numbers of steps."""

Cell = Any  # a word or a number


@dataclass(frozen=True)
class Operators:
    """The operators of one network.

    Attributes:
        rows: What each has to do, a cell for each of the table's columns.
        owners: The operator of each name that a kernel may have, -1 for none.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    rows: tuple[tuple[Cell, ...], ...]
    owners: dict[str, int]


@dataclass(frozen=True)
class OperatorTable:
    """The operators of all networks of a bundle.

    Attributes:
        columns: Names of what is known of an operator: `node`, then the fields of `autosplit.core.operators`.
        files: By the name of the ONNX file; see `C_STEPS`.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    columns: tuple[str, ...]
    files: dict[str, Operators]

    @classmethod
    def load(cls, folder: Path) -> OperatorTable:
        """Read the table of a bundle whose hashes were checked.

        Raises:
            BundleError: There is none, or it is damaged.
        """
        path = folder / OPERATORS
        try:
            found: OperatorTable = value_of(cls, read_json(path, error=BundleError), "")
            for name, operators in found.files.items():
                found.moved(name)
                if any(not -1 <= owner < len(operators.rows) for owner in operators.owners.values()):
                    raise ValueError(f"files.{name} names an operator that it does not have")
        except (ValueError, TypeError) as e:
            if isinstance(e, BundleError):
                raise
            raise BundleError(f"{path}: {e}; export the bundle again") from e
        return found

    def moved(self, name: str) -> list[float]:
        """Activation elements that each operator of a network reads and writes."""
        places = [self.columns.index(column) for column in ("reads", "outputs")]
        return [float(sum(row[place] for place in places)) for row in self.files[name].rows]
