"""`autosplit export`."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from autosplit.cli.console import print_rich, quoted, reported, say_next
from autosplit.cli.options import (
    AsJson,
    DataRoot,
    ExportTarget,
    Fallback,
    Images,
    NewBundle,
    Opset,
    Quiet,
    ResultOrRun,
    TrustCode,
    export_target,
)
from autosplit.core.opsets import OPSET

__all__ = ["command"]


@reported
def command(
    result: ResultOrRun,
    out: NewBundle,
    images: Images = None,
    fallback: Fallback = False,
    opset: Opset = OPSET,
    target: ExportTarget = "onnx",
    data_root: DataRoot = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a found deployment as ONNX or C with all that runs it, and compare it with the deployment on images."""
    from rich.table import Table

    from autosplit.report.progress import Progress
    from autosplit.runtime.c.export import C_FOLDER
    from autosplit.runtime.export import export_result

    manifest = export_result(result / "best.json" if result.is_dir() else result, out, images=images,
                             fallback=fallback, opset=opset, target=export_target(target), data_root=data_root,
                             progress=Progress(quiet=quiet), trust_code=trust_code)
    size = sum((out / name).stat().st_size for name in manifest.files)
    if as_json:
        typer.echo(json.dumps({"bundle": str(out), "bytes": size, **asdict(manifest)}))
        return
    table = Table(title="The bundle against the deployment, C against the bundle; test images" if target == "c"
                  else "onnxruntime against the deployment, test images")
    for name in ("network", "images", "labels equal", "payloads equal", "largest logit error", "tolerance"):
        table.add_column(name, justify="left" if name == "network" else "right")
    for row in manifest.parity:
        table.add_row(row.network, str(row.images), str(row.labels_equal), str(row.payloads_equal),
                      f"{row.logit_error:.2g}", f"{row.tolerance:.2g}")
    print_rich(f"plan    {manifest.label}  ({manifest.arithmetic} on the device)",
               f"bundle  {out}, {len(manifest.files) + 1} files, {size / 1000:.0f} kB", table)
    if manifest.footprint is not None:
        print_rich(f"C       {out / C_FOLDER}: {manifest.footprint.text}")
    if not quiet:
        if manifest.footprint is not None:
            say_next(f"$ cd {quoted(out / C_FOLDER)} && make check  # the C once more, on other machines")
        say_next(f"$ cd {quoted(out)} && python -m coinference check  # compares it once more, on any machine",
                 f"serve {quoted(out)}  # the edge's side",
                 f"infer {quoted(out)} IMAGES --edge HOST:5555  # the device's side")
