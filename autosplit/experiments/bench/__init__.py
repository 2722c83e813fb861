"""Tables of measured plan spaces, and search methods compared on them (`autosplit bench`).

Begin with `table` (a whole space measured once), then `runs` (every method in every scenario) and `summary` (regret,
ranks, tests). Imported by the command line only.
"""

from __future__ import annotations

from autosplit.experiments.bench.conditions import draw_conditions
from autosplit.experiments.bench.runs import Grid, Run, Setting, run_grid
from autosplit.experiments.bench.table import Table, TableRecord, load_table, tabulate

__all__ = ["Grid", "Run", "Setting", "Table", "TableRecord", "draw_conditions", "load_table", "run_grid", "tabulate"]
