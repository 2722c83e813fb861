"""`autosplit show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from autosplit.cli.console import print_rich, quoted, reported, say_next
from autosplit.cli.options import AsJson
from autosplit.core.errors import ConfigError

__all__ = ["command"]


@reported
def command(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    top: Annotated[int, typer.Option(min=1, help="How many of the best measured plans to show.")] = 10,
    optuna: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Write the ledger as an Optuna study to a new file, for optuna-dashboard.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a run: how far it is, its best plans, and the final table once there is one."""
    from rich.table import Table

    from autosplit.core.result import Result
    from autosplit.core.scenario import load_scenario
    from autosplit.pipeline.ledger import LEDGER_FILE, Ledger
    from autosplit.report.tables import comparison_table

    if not (run / LEDGER_FILE).is_file():
        raise ConfigError(f"{run} is no run directory (it holds no {LEDGER_FILE}); `autosplit search` makes one")
    scenario = load_scenario(str(run / "scenario.yaml"))
    ledger = Ledger.read(run)
    if optuna is not None:
        from autosplit.pipeline.optuna_study import write_study

        write_study(ledger, optuna)
        say_next(f"$ optuna-dashboard {quoted(optuna)}")
    outcomes = ledger.outcomes()
    ranked = sorted(outcomes, key=lambda o: (o.feasible, o.reward), reverse=True)[:top]
    measured = sum(o.measurement.fidelity == "F1" for o in outcomes)
    done = (run / "best.json").is_file()
    if as_json:
        typer.echo(json.dumps({
            "scenario": scenario.model_dump(mode="json"), "finished": done,
            "measurements": measured,
            "best": [o.model_dump(mode="json") for o in ranked],
        }))
        return
    conditions = scenario.conditions
    print_rich(f"{scenario.name}: {scenario.backbone} on {scenario.dataset}, {conditions.device.name} -> "
               f"{conditions.channel.name} -> {conditions.edge.name}, {conditions.budget_ms:g} ms",
               f"{measured} of {scenario.search.evaluations} measurements, {'finished' if done else 'not finished'}")
    table = Table(title="best measured plans (validation)")
    for name in ("plan", "fine-tuned", "accuracy", "bytes", "p50 ms", "p95 ms", "in time"):
        table.add_column(name, justify="left" if name == "plan" else "right")
    for o in ranked:
        m = o.measurement
        table.add_row(o.plan.label, "yes" if m.fidelity == "F3" else "no", f"{m.accuracy:.1%}",
                      f"{m.workload.payload_bytes_mean:.0f}", f"{o.latency.p50_ms:.1f}", f"{o.latency.p95_ms:.1f}",
                      "yes" if o.feasible else "NO")
    print_rich(table)
    if done:
        print_rich(comparison_table(Result.load(run / "best.json").comparison, conditions.budget_ms))
    else:
        say_next(f"search --resume {quoted(run)}  # takes the remaining measurements")
