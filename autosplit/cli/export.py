"""`autosplit export`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autosplit.cli.common import AsJson, DataRoot, Quiet, print_rich, reported, say

if TYPE_CHECKING:
    from rich.table import Table

    from autosplit.runtime.standalone.bundle.manifest import Manifest

__all__ = ["command"]


@reported
def command(
    result: Annotated[Path, typer.Argument(help="A best.json, its weights beside it; or a run directory.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle, new or empty.")],
    images: Annotated[int | None, typer.Option(min=1, help="Test images to compare [default: all, of large ones as "
                                                           "many as make 20 million pixels].")] = None,
    fallback: Annotated[bool, typer.Option("--fallback", help="Add the whole, unpruned network, for a device that "
                                                              "loses its edge.")] = False,
    data_root: DataRoot = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a found deployment as ONNX with all that runs it, and compare it with the deployment on test images."""
    from autosplit.report.progress import Progress
    from autosplit.runtime.export import export_result

    manifest = export_result(result / "best.json" if result.is_dir() else result, out, images=images,
                             fallback=fallback, data_root=data_root, progress=Progress(quiet=quiet))
    size = sum((out / name).stat().st_size for name in manifest.files)
    if as_json:
        typer.echo(json.dumps({"bundle": str(out), "bytes": size, **asdict(manifest)}))
        return
    print_rich(f"plan    {manifest.label}  ({manifest.arithmetic} on the device)",
               f"bundle  {out}, {len(manifest.files) + 1} files, {size / 1000:.0f} kB", _table(manifest))
    if not quiet:
        say(f"check it anywhere with: cd {out} && python -m coinference check")


def _table(manifest: Manifest) -> Table:
    """What was compared, one network a row."""
    from rich.table import Table

    table = Table(title="onnxruntime against the deployment, test images")
    for name in ("network", "images", "labels equal", "payloads equal", "largest logit error", "tolerance"):
        table.add_column(name, justify="left" if name == "network" else "right")
    rows: list[Any] = list(manifest.parity)
    for row in rows:
        table.add_row(row.network, str(row.images), str(row.labels_equal), str(row.payloads_equal),
                      f"{row.logit_error:.2g}", f"{row.tolerance:.2g}")
    return table
