"""Files that are whole: readers see the old content or the new one, whenever a process is killed or a disk is full.

Everything that a run, a cache, a policy or a bundle leaves behind is written through this module, but for records that
are appended (`autosplit.core.records`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autosplit.core.hashing import sha256_of, sha256_of_file

__all__ = ["write_beside", "write_whole", "written_whole"]


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name beside the target to write to; at the end of the block it takes the target's place, on the disk.

    Args:
        path: The target; its folder is made where it is absent. The name ends as this one does, for libraries that
            take the format from it.

    Raises:
        OSError: The folder cannot be made or written. The target is what it was, and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{secrets.token_hex(6)}.tmp{''.join(path.suffixes)}")
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())  # else a power cut may leave the new name without its content
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    with suppress(OSError):  # not every system can synchronise a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all; text as UTF-8 with the line ends that it has.

    Raises:
        OSError: As for `written_whole`.
    """
    with written_whole(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def write_beside(path: Path, content: bytes) -> str:
    """Write what another file is to name by its hash, without touching what that file names now.

    Two files cannot be replaced in one step. So where the target holds something else, the content gets a name of its
    own, and the old one stays for whoever still names it.

    Args:
        path: The target.
        content: Of the file.

    Returns:
        Name of the file that was written, in the target's folder.

    Raises:
        OSError: As for `written_whole`.
    """
    if path.is_file():
        before, now = sha256_of_file(path), sha256_of(content)
        if before == now:
            return path.name
        path = path.with_name(f"{path.stem}-{now[:12]}{path.suffix}")
    write_whole(path, content)
    return path.name
