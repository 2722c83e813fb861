"""`autosplit replay`."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import typer

from autosplit.cli.console import print_rich, reported
from autosplit.cli.options import AsJson, DataRoot, Quiet, ResultOrRun, TrustCode

__all__ = ["command"]


@reported
def command(
    result: ResultOrRun,
    data_root: DataRoot = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Rebuild a found deployment, and compare everything that its file says with what is found again."""
    from autosplit.pipeline.replay import replay
    from autosplit.report.progress import Progress
    from autosplit.report.tables import latency_table

    played = replay(result / "best.json" if result.is_dir() else result, Progress(quiet=quiet), data_root,
                    trust_code=trust_code)
    now, test = played.evaluation, played.result.test
    total = int(now.payload_sizes.sum())
    # rows of the comparison lack the same fields, which are named once
    unchecked = list(dict.fromkeys(re.sub(r"^comparison\.[^.]+\.", "comparison: ", name) for name in played.unchecked))
    if as_json:
        typer.echo(json.dumps({
            "plan": played.result.plan.label, "exact": played.exact, "test_accuracy": now.accuracy,
            "recorded_test_accuracy": test.accuracy, "payload_bytes_total": total,
            "recorded_payload_bytes_total": test.payload_bytes_total,
            "latency": played.latency.model_dump(), "recorded_latency": played.recorded.model_dump(),
            "differences": [asdict(d) for d in played.differences], "not_checked": list(played.unchecked),
        }))
    else:
        print_rich(
            f"plan           {played.result.stored.blueprint.plan.label}",
            f"test accuracy  {now.accuracy:.2%} ({now.correct} of {now.images} images), "
            f"recorded {test.accuracy:.2%} ({test.correct})",
            f"payload        {total} bytes, {now.payload_mean:.1f} an image, recorded {test.payload_bytes_total}",
            latency_table(played.recorded, played.latency),
            *(f"differs        {d}{', as another processor may' if d.within else ''}" for d in played.differences),
            f"not checked    {', '.join(unchecked)}",
            "everything else is equal to the record, to the image and to the byte" if played.exact else
            "not equal to the record",
        )
    played.check()
