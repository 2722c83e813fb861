"""Code that files name: what a file claims may be read by anyone, what it names is not run unless the user says so.

A scenario, a result, a ledger or a policy may name Python code, as `file.py:Name` or `module:Name`. Whoever reads such
a file tells this module (`named_in_file`), and whoever is about to run code asks it (`require_trusted`). Code runs

- that no file named: what was typed on the command line or written in the user's own program,
- whose content ran here before, in a search of this user's (`remember` keeps its hash in the user's configuration),
- that the user vouches for, with `--trust-code` or `trust_code=True`.

What is trusted is content, a hash together with the name of the object: a file that changes is asked about again, one
that is moved or copied is not.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from autosplit.core.errors import AutosplitError, UntrustedCodeError
from autosplit.core.hashing import sha256_of
from autosplit.runtime.standalone.errors import printable
from autosplit.runtime.standalone.files import read_file

__all__ = ["absolute_code", "code_file", "code_sha256", "found_again", "named_in_file", "remember", "require_trusted",
           "trust_typed", "trusted_file"]

_log = logging.getLogger(__name__)
_NO_MODULES = {"torchvision", "timm", "hf", "memory", "image-folder", "image-csv"}
"""Prefixes of names that are no modules to import from, though modules of these names exist."""
_MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class _Named:
    """Where a name was read, and the hash that was recorded with it."""

    file: str
    field: str
    sha256: str


# what this process read and was told: as with `sys.modules`, every path to an import passes the same place
_named: dict[str, _Named] = {}
_vouched: set[str] = set()


# --- what code a name means -----------------------------------------------------------------------------------------


def code_file(spec: str) -> Path | None:
    """The file that `file.py:Name` or `module:Name` would run, found without running anything; `None` if nothing."""
    where, _, name = spec.rpartition(":")
    if not where or not all(part.isidentifier() for part in name.split(".")):
        return None
    with suppress(OSError, ValueError):  # too long, or with a NUL
        if where.endswith(".py"):
            return Path(where) if Path(where).is_file() else None
        if where not in _NO_MODULES and all(part.isidentifier() for part in where.split(".")):
            return _module_file(where)
    return None


def code_sha256(spec: str) -> str | None:
    """SHA-256 of the file that a name would run; `None` where there is none."""
    file = code_file(spec)
    if file is None:
        return None
    try:
        return sha256_of(read_file(file, most_bytes=_MOST_BYTES))
    except AutosplitError:  # unreadable: the import says so
        return None


def absolute_code(spec: str) -> str:
    """`file.py:Name` with the file's absolute path; every other name as it is."""
    where, colon, name = spec.rpartition(":")
    return f"{Path(os.path.abspath(where))}:{name}" if colon and where.endswith(".py") else spec  # noqa: PTH100


def found_again(spec: str) -> str:
    """A name whose file is no longer where the file that names it says, as the copy beside that one.

    A run directory that was moved together with its code still runs; only the content that was recorded is taken.
    """
    where, _, name = spec.rpartition(":")
    known = _named.get(spec)
    if known is None or not known.sha256 or not where.endswith(".py") or Path(where).is_file():
        return spec
    for folder in (Path(known.file).parent, *Path(known.file).absolute().parents[1:3], Path()):
        copy = f"{folder / Path(where).name}:{name}"
        if code_sha256(copy) == known.sha256:
            named_in_file({known.field: copy}, known.file)
            return copy
    return spec


def _module_file(module: str) -> Path | None:
    """The file of a module, without importing it or the packages around it."""
    path: Any = None
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        found = None
        for finder in sys.meta_path:
            found = finder.find_spec(name, path)
            if found is not None:
                break
        if found is None:
            return None
        path = found.submodule_search_locations
        if end == len(parts):
            return Path(found.origin) if found.origin and Path(found.origin).is_file() else None
        if path is None:
            return None
    return None


# --- who may run it -------------------------------------------------------------------------------------------------


def named_in_file(data: Any, file: str | Path, *, trust_code: bool = False) -> None:
    """Say which names stand in a file, before anything of it is used.

    Args:
        data: What the file holds, as plain data; any text with a colon in it may be a name of code.
        file: The file, for messages.
        trust_code: Whether the user vouches for the code that it names, as it is now.
    """
    recorded = _recorded(data)
    for field, text in _texts(data):
        # twice, so that neither another working directory nor a path written out makes it another name
        for spec in {text, absolute_code(text)}:
            _named[spec] = _Named(str(file), field, recorded.get(text, ""))
        if trust_code:
            _vouched.add(_identity(text))


def trust_typed(values: Iterable[object]) -> None:
    """Vouch for names that the user typed, whatever files name them too."""
    _vouched.update(_identity(value) for value in values if isinstance(value, str) and ":" in value)


def require_trusted(spec: str) -> None:
    """Ask whether code may run that a name stands for.

    Args:
        spec: `file.py:Name` or `module:Name`, as it is about to be imported.

    Raises:
        UntrustedCodeError: A file named it, it never ran here, and nobody vouched for it. The message shows all such
            code of that file.
    """
    known = _named.get(spec) or _named.get(absolute_code(spec))
    if known is None or (spec.rpartition(":")[0].endswith(".py") and code_file(spec) is None):
        return  # typed, or a file that does not exist, which the import tells
    trusted = _vouched | _remembered()
    if _identity(spec) in trusted:
        return
    others = {absolute_code(s): n for s, n in _named.items() if n.file == known.file and code_file(s) is not None}
    shown = {absolute_code(spec): known} | {s: n for s, n in others.items() if _identity(s) not in trusted}
    listed = "; ".join(_described(s, n) for s, n in shown.items())
    raise UntrustedCodeError(
        f"{printable(known.file)} names code that never ran here; look at it, and if you trust it add --trust-code "
        f"(trust_code=True in Python), which would run {printable(listed)}")


def remember(specs: Iterable[str]) -> None:
    """Keep the hashes of code that a search of this user's is about to run, so that its result runs here from now on.

    Args:
        specs: Names, each vouched for or typed (`require_trusted`).
    """
    known, file = _remembered(), trusted_file()
    new = [i for i in dict.fromkeys(map(_identity, specs)) if i not in known]
    if not new:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.write("".join(f"{identity}\n" for identity in new))
    except OSError as e:
        _log.warning("cannot write %s (%s): replaying this result will need --trust-code", file, e.strerror or e)


def trusted_file() -> Path:
    """Where the hashes of code that ran here are kept: below AUTOSPLIT_CONFIG, else in the user's configuration."""
    override = os.environ.get("AUTOSPLIT_CONFIG")
    folder = Path(override).expanduser() if override else Path(platformdirs.user_config_dir("autosplit"))
    return folder / "trusted-code.txt"


def _remembered() -> set[str]:
    try:
        return set(trusted_file().read_text(encoding="utf-8", errors="replace").split("\n"))
    except OSError:
        return set()


def _identity(spec: str) -> str:
    """Content and name of the object; a module without a file, such as one written in C, is its name."""
    return f"{code_sha256(spec) or spec.rpartition(':')[0]}:{spec.rpartition(':')[2]}"


def _described(spec: str, known: _Named) -> str:
    where, _, name = spec.rpartition(":")
    sha256 = code_sha256(spec) or "built in"
    changed = f", not the recorded {known.sha256[:12]}" if known.sha256 and known.sha256 != sha256 else ""
    if not where.endswith(".py"):
        where = f"{where} in {code_file(spec) or 'Python itself'}"
    return f"{name} of {where} (sha256 {sha256[:12]}{changed}; {known.field})"


def _texts(data: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Every text with a colon in it, keys of mappings left out, with its dotted field."""
    if isinstance(data, str):
        if ":" in data:
            yield field, data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from _texts(value, f"{field}.{key}" if field else str(key))
    elif isinstance(data, (list, tuple)):
        for number, value in enumerate(data):
            yield from _texts(value, f"{field}.{number}")


def _recorded(data: Any) -> Mapping[str, str]:
    """The hashes that a scenario, or what holds one, recorded."""
    if not isinstance(data, Mapping):
        return {}
    scenario = data.get("scenario", data)
    code = scenario.get("code") if isinstance(scenario, Mapping) else None
    return {str(k): str(v) for k, v in code.items()} if isinstance(code, Mapping) else {}
