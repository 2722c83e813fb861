"""Optional packages: the command that installs what an extra of `pyproject.toml` stands for."""

from __future__ import annotations

import re
from importlib import metadata

__all__ = ["install_command"]

_REQUIREMENT = re.compile(r"(?P<package>[\w.-]+(==[\w.]+)?).*extra == ['\"](?P<extra>[\w-]+)['\"]")


def install_command(extra: str) -> str:
    """The command that installs the packages of an extra, for the message of an error.

    It names the packages themselves, because `pip install 'autosplit[deploy]'` would look for autosplit in an index
    that does not have it. An exact version is kept: another one is not known to work.

    Args:
        extra: A key of `project.optional-dependencies`, such as `deploy`.
    """
    try:
        requirements = metadata.requires("autosplit") or []
    except metadata.PackageNotFoundError:  # a clone that is on the path and was never installed
        requirements = []
    found = [match["package"] for match in map(_REQUIREMENT.match, requirements) if match and match["extra"] == extra]
    packages = [package for package in found if package != "autosplit"]  # an extra may name another one of ours
    return f"pip install {' '.join(packages)}" if packages else f"pip install '.[{extra}]' in a clone of autosplit"
