"""`autosplit bench`: tables of truth, and methods measured on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autosplit.cli.common import EXIT_INTERRUPTED, AsJson, DataRoot, Quiet, Set, assignments, changed, reported, say
from autosplit.errors import ConfigError

__all__ = ["app"]

app = typer.Typer(name="bench", help="Measure whole plan spaces, and compare search methods on them.",
                  no_args_is_help=True, rich_markup_mode=None)


@app.command(name="table")
@reported
def table(
    out: Annotated[Path, typer.Option(help="The table: NAME.csv or NAME.csv.gz; its record is NAME.json beside it.")],
    scenario: Annotated[str, typer.Option(help="Packaged scenario, or a YAML file.")] = "default",
    set_: Set = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure every plan of a scenario's space once (F1); the same command goes on with what was stopped."""
    from autosplit.benching.table import tabulate
    from autosplit.report.progress import Progress
    from autosplit.scenario import load_scenario

    if not out.name.endswith((".csv", ".csv.gz")):
        raise ConfigError(f"--out {str(out)!r}: name a table NAME.csv or NAME.csv.gz")
    wanted = changed(load_scenario(scenario), {}, assignments(set_))
    try:
        made = tabulate(wanted, out, progress=Progress(quiet=quiet), data_root=data_root)
    except KeyboardInterrupt:
        say("interrupted; what was measured is in the cache, and the same command goes on from there")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if as_json:
        typer.echo(made.record.model_dump_json())
        return
    best = max(made.evaluator.measurements, key=lambda m: m.accuracy)
    typer.echo(f"{made.record.plans} plans in {out}; uncut network {made.record.backbone_accuracy:.1%}, "
               f"best plan {best.accuracy:.1%} ({best.plan.label})")


@app.command(name="search")
@reported
def search(
    tables: Annotated[list[Path], typer.Argument(help="Tables, as `autosplit bench table` writes them.")],
    out: Annotated[Path, typer.Option(help="Folder of searches, summary and figure; one that was stopped goes on.")],
    agent: Annotated[list[str] | None, typer.Option(
        help="Methods, the first of which the others are tested against [default: every agent].")] = None,
    scenarios: Annotated[int, typer.Option(min=1, help="Conditions drawn for each table.")] = 30,
    scenario_seed: Annotated[int, typer.Option(help="Seed of that draw; 0 to 9 are for development.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Searches a method, table and scenario.")] = 5,
    evaluations: Annotated[int, typer.Option(min=1, help="Measurements of a search.")] = 100,
    latency_model: Annotated[str, typer.Option(help="Name, module:Name or file.py:Name.")] = "analytic",
    objective: Annotated[str, typer.Option(help="Reward.")] = "in-time-accuracy",
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare search methods on tables, under conditions drawn from the packaged profiles."""
    from autosplit.agents import list_agents
    from autosplit.benching.runs import Grid, run_grid, settings_of
    from autosplit.benching.summary import draw_regret, scenario_frame, summarise, to_markdown
    from autosplit.report.progress import Progress

    methods = tuple(agent) if agent else tuple(sorted(list_agents(), key=lambda name: (name != "ppo", name)))
    grid = Grid(tuple(tables), methods, scenarios, scenario_seed, seeds, evaluations, latency_model, objective)
    try:
        runs = run_grid(grid, out, jobs=jobs, progress=Progress(quiet=quiet))
    except KeyboardInterrupt:
        say(f"interrupted; the searches that are done are in {out}, and the same command goes on from there")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    frame = summarise(runs, methods[0], evaluations)
    text = to_markdown(frame, evaluations)
    frame.to_csv(out / "summary.csv", index=False)
    scenario_frame(list(settings_of(grid).values())).to_csv(out / "scenarios.csv", index=False)
    (out / "summary.md").write_text(f"{text}\n", encoding="utf-8")
    draw_regret(runs, evaluations, out / "regret.png", out / "regret.svg")
    typer.echo(frame.to_json(orient="records") if as_json else text)
