"""Finding objects by name: built-ins, entry points of installed packages, `package.module:Name`, `file.py:Name`.

Every family of exchangeable parts (latency models, codecs, agents ...) has one `Registry`. Nothing is imported
until it is asked for, so listing names costs no heavy import and a broken plugin harms only who uses it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from autosplit.core.errors import AutosplitError, ConfigError, PluginError, UnknownNameError, nearest_name
from autosplit.core.hashing import sha256_of
from autosplit.core.trust import found_again, require_trusted
from autosplit.runtime.standalone.files import read_file

__all__ = ["Registry", "check_prefix", "file_modules", "load_object", "one_line", "source_of", "take_file_modules"]

# a look at all packages takes 10 ms, and a search asks for dozens of names
_installed: Callable[..., Any] = cache(entry_points)
_of_files: dict[str, ModuleType] = {}


class Registry:
    """The named objects of one kind.

    Built-ins and entry points share one name space; a name that is taken twice is an error, never a silent choice.

    Args:
        kind: What the objects are, in the singular, for messages ("latency model").
        group: Entry point group that other packages register theirs in ("autosplit.latency_models").
        builtin: Name to `module:Name` of what comes with this package; imported only when loaded.

    Example:
        >>> models = Registry("latency model", "autosplit.latency_models",
        ...                   {"analytic": "autosplit.latency.analytic:AnalyticLatencyModel"})
        >>> models.load("analytic").__name__
        'AnalyticLatencyModel'
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._builtin = dict(builtin)

    def names(self) -> list[str]:
        """Every name that `load` knows, sorted.

        Raises:
            PluginError: Two objects have the same name.
        """
        return sorted(self.targets())

    def load(self, name: str) -> Any:
        """The object of this name, imported now.

        Args:
            name: A name of `names()`, `package.module:Name`, or `path/to/file.py:Name`.

        Returns:
            The object itself: a class or factory is not called.

        Raises:
            UnknownNameError: No object has this name, or the module or file does not define it.
            UntrustedCodeError: A file named it, and it never ran here (`autosplit.core.trust`).
            ConfigError: The file does not exist, or a path lacks its `:Name`.
            PluginError: Two objects have this name, or the import raised.
        """
        if ":" in name:
            name = found_again(name)
            require_trusted(name)
            return load_object(name, self.kind)
        if name.endswith(".py"):
            file = Path(name)
            text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
            defined = re.findall(r"^(?:def|class) ([A-Za-z]\w*)", text, re.MULTILINE) or ["Name"]
            raise ConfigError(f"{self.kind} {name!r}: say which object of the file, as in '{name}:{defined[0]}'")
        targets = self.targets()
        if name not in targets:
            raise UnknownNameError(self.kind, name, targets)
        return load_object(targets[name], f"{self.kind} {name!r},")

    def targets(self) -> dict[str, str]:
        """Name to `module:Name` of every built-in and entry point; nothing is imported.

        Raises:
            PluginError: Two objects have the same name.
        """
        targets = dict(self._builtin)
        for point in _installed(group=self.group):
            known = targets.setdefault(point.name, point.value)
            if known != point.value:  # equal where one package is on the path twice
                raise PluginError(f"two {self.kind}s are named {point.name!r}: {known} and {point.value}; "
                                  f"uninstall one, or rename its entry point in the group {self.group!r}")
        return targets


def check_prefix(kind: str, name: str, prefixes: Iterable[str]) -> None:
    """Refuse a name that begins nearly as it should, as `imagecsv:PATH` does, before it is taken for a module.

    Args:
        kind: What is named, for the message.
        name: Of anything; without a colon it passes.
        prefixes: What such names begin with, each with its colon.

    Raises:
        UnknownNameError: It is meant for one of these.
    """
    begin, colon, rest = name.partition(":")
    known = [prefix.removesuffix(":") for prefix in prefixes]
    near = nearest_name(begin, known)
    if colon and near and near != begin and "." not in begin and importlib.util.find_spec(begin) is None:
        raise UnknownNameError(kind, name, [f"{prefix}:..." for prefix in known], f"did you mean '{near}:{rest}'?")


def load_object(spec: str, kind: str = "plugin") -> Any:
    """Import the object that `package.module:Name` or `path/to/file.py:Name` names.

    Args:
        spec: Where the object is. A file's own folder is not put on the import path.
        kind: What the object is, for messages.

    Raises:
        ConfigError: `spec` has no `:Name`, or the file does not exist.
        PluginError: The module does not exist, or importing it raised.
        UnknownNameError: The module has no such name; the message holds the nearest one.
    """
    where, _, name = spec.rpartition(":")
    if not where or not name:
        raise ConfigError(f"{kind} {spec!r}: write package.module:Name or path/to/file.py:Name")
    subject = f"{kind} {spec!r}"
    try:
        value: Any = _import_file(where, subject) if where.endswith(".py") else importlib.import_module(where)
    except AutosplitError:  # it says itself what is wrong, such as a package that is to be installed
        raise
    except (Exception, SystemExit) as e:
        absent = e.name if isinstance(e, ModuleNotFoundError) and not where.endswith(".py") else None
        if absent and f"{where}.".startswith(f"{absent}."):  # not a module that the plugin itself imports
            raise PluginError(f"{subject}: there is no module {absent!r}; install its package, or name a file as in "
                              "path/to/file.py:Name") from e
        raise PluginError(f"{subject}: importing {where} raised {one_line(e)}") from e
    for part in name.split("."):
        if not hasattr(value, part):
            known = [n for n, v in vars(value).items() if not n.startswith("_") and not isinstance(v, ModuleType)]
            raise UnknownNameError(f"name in {where}:", part, known)
        value = getattr(value, part)
    return value


def file_modules() -> dict[str, ModuleType]:
    """The modules of files that this process has run, by the file's absolute path."""
    return dict(_of_files)


def take_file_modules(modules: dict[str, ModuleType]) -> None:
    """Take modules that another process made of files, which need not exist here."""
    for path, module in modules.items():
        _of_files[path] = sys.modules[module.__name__] = module


def source_of(thing: Any) -> str:
    """Text of the file that defines a class or function, for keys of caches; empty where there is none."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(thing))
        return Path(file).read_text(encoding="utf-8", errors="replace") if file else ""
    except (OSError, TypeError):  # a partial, or compiled code
        return ""


def one_line(error: BaseException) -> str:
    """An exception as `Type: message` on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _import_file(file: str, subject: str) -> ModuleType:
    """The module of a file, executed once for each version of the file."""
    path = Path(file)
    if not path.is_file():
        if (taken := _of_files.get(str(path.resolve()))) is not None:
            return taken
        raise ConfigError(f"{subject}: no such file {str(path.absolute())!r}")
    # one module object a content, registered so that dataclasses and pickling find it
    content = read_file(path)
    name = f"_autosplit_plugin_{path.stem}_{sha256_of(str(path.resolve()).encode() + content)[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise PluginError(f"{subject}: {file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # not through the loader, which would take compiled code that lies beside the file for the file's own
        exec(compile(content, str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]  # half a module must not be what the next call finds
        raise
    _of_files[str(path.resolve())] = module
    return module
