"""Tables of truth, and search methods measured on them (`autosplit bench`)."""

from __future__ import annotations

from autosplit.experiments.bench.conditions import draw_conditions
from autosplit.experiments.bench.runs import Grid, Run, Setting, run_grid
from autosplit.experiments.bench.table import Table, TableRecord, load_table, tabulate

__all__ = ["Grid", "Run", "Setting", "Table", "TableRecord", "draw_conditions", "load_table", "run_grid", "tabulate"]
