"""The page of the report and its parts, as jinja2 templates."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from autosplit.report.style import short_number
from autosplit.report.tables import accuracy_interval, difference, factor, kilobytes

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["environment"]


@cache
def environment() -> Environment:
    """Templates that escape whatever is put into them and refuse names that do not exist."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(loader=PackageLoader("autosplit.report"), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True)
    made.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    made.filters["short"] = short_number
    made.filters["factor"] = factor
    made.filters["accuracy_interval"] = accuracy_interval
    made.filters["kilobytes"] = kilobytes
    made.filters["difference"] = difference
    return made
