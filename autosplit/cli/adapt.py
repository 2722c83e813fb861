"""`autosplit adapt`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from autosplit.cli.console import announce, print_rich, quoted, reported, say_next
from autosplit.cli.options import (
    AcceleratorKind,
    AsJson,
    DataRoot,
    ExportTarget,
    Fallback,
    Images,
    NewBundle,
    Opset,
    OptionalDeadline,
    Quiet,
    TrustCode,
    export_target,
)
from autosplit.core.opsets import OPSET

__all__ = ["command"]


@reported
def command(
    run: Annotated[Path, typer.Argument(help="A run directory whose search trained a policy.")],
    out: NewBundle,
    rates: Annotated[int, typer.Option(min=2, max=16, help="Most code sizes in the bundle, 2 to 16.")] = 6,
    budget_ms: OptionalDeadline = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Most epochs of fine-tuning [default: 4 times those of a "
                                                           "finalist].")] = None,
    images: Images = None,
    fallback: Fallback = False,
    opset: Opset = OPSET,
    target: ExportTarget = "onnx",
    accelerator: AcceleratorKind = None,
    data_root: DataRoot = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a bundle of several code sizes, which a device changes between as its link changes: `infer --adaptive`."""
    from rich.table import Table

    from autosplit.cli.estimate import estimate_adapt
    from autosplit.pipeline.adapt import adapt
    from autosplit.report.progress import Progress
    from autosplit.runtime.c.export import C_FOLDER

    if not quiet:
        announce(estimate_adapt(run, rates, epochs, data_root, trust_code))
    found = adapt(run, out, rates=rates, budget_ms=budget_ms, epochs=epochs, images=images, fallback=fallback,
                  opset=opset, target=export_target(target), accelerator=accelerator, data_root=data_root,
                  progress=Progress(quiet=quiet), trust_code=trust_code)
    manifest, regret = found.manifest, found.regret
    if as_json:
        typer.echo(json.dumps({"bundle": str(out), "regret": asdict(regret), **asdict(manifest)}))
        return
    table = Table(title="rates: validation, test, and onnxruntime against the deployment")
    for name in ("rate", "setting", "accuracy", "bytes", "p95", "test", "bytes", "labels equal", "payloads equal"):
        table.add_column(name, justify="left" if name == "setting" else "right")
    for i, (rate, parity) in enumerate(zip(manifest.rates, manifest.parity, strict=False)):
        table.add_row(str(i), rate.label, f"{rate.accuracy:.1%}", f"{rate.payload_bytes:.0f}",
                      f"{rate.payload_bytes_p95:.0f}", f"{rate.test_accuracy:.1%}", f"{rate.test_payload_bytes:.0f}",
                      f"{parity.labels_equal} of {parity.images}", f"{parity.payloads_equal} of {parity.images}")
    print_rich(f"plan    {manifest.label}  ({manifest.arithmetic} on the device)", table,
               f"table   the best rate, by the latency model's in-time accuracy, for {regret.agrees:.0%} of "
               f"{regret.links} links; loses {regret.mean:.2%} on average, {regret.worst:.1%} at most",
               f"        the policy's network alone: {regret.network_agrees:.0%}, {regret.network_mean:.2%}, "
               f"{regret.network_worst:.1%}")
    if manifest.footprint is not None:
        print_rich(f"C       {out / C_FOLDER}: {manifest.footprint.text}")
    if not quiet:
        say_next(f"$ cd {quoted(out)} && python -m coinference check  # compares it once more, on any machine",
                 f"serve {quoted(out)}  # the edge's side",
                 f"infer {quoted(out)} IMAGES --edge HOST:5555 --adaptive  # the device's side")
