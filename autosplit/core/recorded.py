"""CSV files that a profile names: they lie beside it, and what was recorded with them holds for their content only."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field, ValidationInfo, field_validator

from autosplit.core.errors import ConfigError
from autosplit.core.hashing import sha256_of
from autosplit.core.validation import Frozen
from autosplit.runtime.standalone.files import MOST_TEXT_BYTES, read_file

__all__ = ["RecordedFile", "read_content", "rows_of"]


class RecordedFile(Frozen, ABC):
    """A block of a profile that names a file.

    Attributes:
        file: In a profile of its own, relative to the profile.
        factor: What its rates are multiplied by.
        sha256: Of the file; filled in when it is read for the first time, checked from then on.
    """

    what: ClassVar[str]
    """What the file is, in errors."""

    changed: ClassVar[str]
    """What is wrong where its hash is not the recorded one."""

    file: str
    factor: float = Field(default=1.0, gt=0, allow_inf_nan=False, exclude_if=lambda factor: factor == 1.0)
    sha256: str = Field(default="", validate_default=True)

    @classmethod
    @abstractmethod
    def check(cls, file: str, sha256: str) -> None:
        """Read the file, so that a damaged one is refused where it is named.

        Raises:
            ConfigError: It cannot be read.
        """

    @field_validator("file")
    @classmethod
    def _beside_the_profile(cls, file: str, info: ValidationInfo) -> str:
        # the folder of the profile comes through the context of pydantic; without one, paths are as they are
        folder = (info.context or {}).get("folder")
        return file if folder is None else str(Path(folder, file))

    @field_validator("sha256")
    @classmethod
    def _readable(cls, sha256: str, info: ValidationInfo) -> str:
        if "file" not in info.data:
            return sha256
        file = info.data["file"]
        found = sha256_of(read_content(cls.what, file))
        if sha256 not in ("", found):
            raise ValueError(f"{cls.what} {file!r} {cls.changed}")
        cls.check(file, found)
        return found


def read_content(what: str, file: str) -> bytes:
    """The bytes of a file.

    Args:
        what: It is, for the error.
        file: Its path.

    Raises:
        ConfigError: There is no such file, it is no regular one, or too large.
    """
    return read_file(file, f"{what} {file!r}", most_bytes=MOST_TEXT_BYTES)


def rows_of(what: str, content: bytes) -> Iterator[list[str]]:
    """The cells of a CSV file, line by line.

    Args:
        what: It is, and its path, for the error.
        content: The file.

    Raises:
        ConfigError: It is no CSV.
    """
    try:
        yield from csv.reader(io.StringIO(content.decode("utf-8-sig", errors="replace")))
    except csv.Error as e:
        raise ConfigError(f"{what}: no CSV ({e})") from e
