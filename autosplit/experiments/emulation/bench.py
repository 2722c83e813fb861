"""`autosplit bench link`: predicted latency against the latency over a link that is really crossed.

Device and edge are two processes that run the exported bundle, each in a network namespace of its own where that is
allowed; between them lies a channel in real time (`autosplit.experiments.emulation`). The prediction is the latency
model's, for the bytes that the protocol puts on the link, and for stages that were timed over a bare link, or predicted
by a model for this machine.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError, LinkError
from autosplit.core.files import write_whole
from autosplit.core.measurement import LatencySummary, StageCost, Workload
from autosplit.core.parameters import Parameter
from autosplit.core.plan import OUTPUT, Plan
from autosplit.core.profiles import ChannelProfile, DeviceProfile
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.result import Result
from autosplit.data.recorded import recorded_data
from autosplit.experiments.emulation.hosts import Hosts, two_hosts
from autosplit.experiments.emulation.links import Link, bare_link
from autosplit.latency.analytic import AnalyticLatencyModel
from autosplit.latency.base import LatencyModel
from autosplit.runtime.export import PACKAGE, export_result
from autosplit.runtime.standalone.bundle.manifest import MANIFEST, Manifest
from autosplit.runtime.standalone.protocol.wire import answer_bytes, request_bytes

__all__ = ["LinkBench", "Machine", "bench_links", "cells_frame", "to_markdown"]

_IMAGES = 100
_COMPARED = 64  # test images that an export is checked with
_PORT = 5555
_PAUSE_MS = 20.0
_BARE = "bare"


@dataclass(frozen=True)
class Machine:
    """What predicts the stages of both sides, in place of timing them over a bare link.

    Attributes:
        device: Profile of this machine as the device.
        edge: Profile of this machine as the edge.
        latency_model: Knows them.
    """

    device: DeviceProfile
    edge: DeviceProfile
    latency_model: LatencyModel


@dataclass(frozen=True)
class LinkBench:
    """What is measured.

    Attributes:
        results: Result files or run directories, one a plan.
        links: What lies between device and edge.
        count: Images of a cell at most.
        seconds: After which a cell asks for no more than `least` images.
        least: Images of a cell at least.
        namespaces: Whether device and edge get networks of their own; else they talk over loopback.
        seed: Of the channels' random draws.
        machine: Predicts the stages too, if given.
    """

    results: tuple[Path, ...]
    links: tuple[Link, ...]
    count: int = 300
    seconds: float = 30.0
    least: int = 30
    namespaces: bool = False
    seed: int = 0
    machine: Machine | None = None


@dataclass(frozen=True)
class _Subject:
    """One plan, ready to be asked.

    Attributes:
        bundle: Its bundle.
        images: A .npy file of images.
        plan: The plan.
        workload: As the search counted it.
    """

    bundle: Path
    images: Path
    plan: Plan
    workload: Workload

    def answers(self, link: str) -> Path:
        """The file of what happened over a link, an image a row."""
        return self.bundle.parent / f"{self.bundle.name}-{link}.csv"

    @cached_property
    def bare(self) -> pd.DataFrame:
        """What happened over a link that holds nothing up."""
        found: pd.DataFrame = pd.read_csv(self.answers(_BARE))
        return found


def bench_links(bench: LinkBench, out: Path, *, data_root: Path | None = None, progress: PhaseReporter | None = None
                ) -> pd.DataFrame:
    """Measure every plan over every channel.

    Args:
        bench: What to measure.
        out: Folder of bundles and of every single answer; a cell that is in it is not measured again.
        data_root: Where data sets lie.
        progress: Shows the phases.

    Returns:
        A row a cell, see `cells_frame`.

    Raises:
        ConfigError: A result has no link, or a latency model does not know this machine.
        LinkError: Edge, device or namespaces do not work.
    """
    progress = progress or NullProgress()
    subjects = [_subject(path, number, out, data_root, progress) for number, path in enumerate(bench.results, start=1)]
    with two_hosts(bench.namespaces) as hosts:
        for subject in subjects:
            with _edge(subject.bundle, hosts) as edge, progress.phase(
                    f"cross the links: {subject.plan.label}", total=1 + len(bench.links)) as advance:
                _cell(bench, subject, _BARE, hosts, bare_link(hosts, edge))
                advance(note="bare")
                for link in bench.links:
                    _cell(bench, subject, link.name, hosts, link.between(hosts, edge, bench.seed), link.least_pause_ms)
                    advance(note=link.name)
    return cells_frame([
        {"plan": subject.plan.label, "link": link.name, **_figures(subject, pd.read_csv(subject.answers(link.name))),
         **_predictions(subject, link, bench.machine)} for subject in subjects for link in bench.links])


def cells_frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The cells with the errors of their predictions.

    Columns: plan, link, payload_bytes, images, wrong (labels that are not those over a bare link), p50_ms and p95_ms as
    measured, p50_low_ms and p50_high_ms (in which that median lies, 95 % sure), encode_ms, link_ms and edge_ms
    (medians), then for each prediction (`timed`, `predicted`) its p50_ms, p95_ms and the relative errors of both in
    percent.
    """
    frame: pd.DataFrame = pd.DataFrame(rows)
    for prediction in ("timed", "predicted"):
        for level in ("p50", "p95"):
            if f"{prediction}_{level}_ms" in frame:
                error = frame[f"{prediction}_{level}_ms"] / frame[f"{level}_ms"] - 1.0
                frame[f"{prediction}_{level}_error_percent"] = 100.0 * error
    return frame


def to_markdown(frame: pd.DataFrame) -> str:
    """The table for people, and the errors in one line each."""
    lines = ["| link | plan | payload | images | measured p50 / p95 | predicted p50 / p95 | error of p50 |",
             "| --- | --- | --- | --- | --- | --- | --- |"]
    for row in frame.to_dict("records"):
        label = str(row["plan"]).replace("|", "\\|")
        lines.append(f"| {row['link']} | {label} | {row['payload_bytes']:.0f} B | {row['images']} | "
                     f"{row['p50_ms']:.1f} / {row['p95_ms']:.1f} ms | {row['timed_p50_ms']:.1f} / "
                     f"{row['timed_p95_ms']:.1f} ms | {row['timed_p50_error_percent']:+.1f} % |")
    lines.append("")
    for prediction, words in (("timed", "stages timed over a bare link"), ("predicted", "stages predicted")):
        if f"{prediction}_p50_ms" in frame:
            errors = {level: frame[f"{prediction}_{level}_error_percent"].abs() for level in ("p50", "p95")}
            lines.append(f"{words}: error of p50 {errors['p50'].median():.1f} % in the median cell, "
                         f"{errors['p50'].max():.1f} % in the worst; of p95 {errors['p95'].median():.1f} % and "
                         f"{errors['p95'].max():.1f} %")
    return "\n".join(lines)


# --- what is asked ----------------------------------------------------------------------------------------------------


def _subject(path: Path, number: int, out: Path, data_root: Path | None, progress: PhaseReporter) -> _Subject:
    result = Result.load(path)
    bundle = out / f"bundle-{number}"
    if result.plan.split == OUTPUT:
        raise ConfigError(f"{path}: plan {result.plan.label!r} runs on the device alone; there is no link to measure")
    if not (bundle / MANIFEST).is_file():
        export_result(path, bundle, images=_COMPARED, data_root=data_root, progress=progress)
    elif Manifest.load(bundle).key != result.stored.blueprint.key:
        raise ConfigError(f"{out} holds measurements of other results; name a new folder with --out")
    images = out / f"images-{number}.npy"
    if not images.is_file():
        with progress.phase("load data"):
            data = recorded_data(result, path, data_root)
        np.save(images, data.validation.images[:_IMAGES].numpy())
    return _Subject(bundle, images, result.plan, result.outcome.measurement.workload)


def _predictions(subject: _Subject, link: Link, machine: Machine | None) -> dict[str, float]:
    bare = subject.bare
    up = np.array([link.counted_bytes(request_bytes(int(n))) for n in bare["payload_bytes"]], dtype=np.float64)
    encode, edge = (StageCost(coded_symbols=1000.0 * float(times_ms.median()))
                    for times_ms in (bare["encode_ms"], bare["total_ms"] - bare["encode_ms"]))
    timed = Workload(plan=subject.plan, encode=encode, edge=edge, payload_bytes_mean=float(up.mean()),
                     payload_bytes_p95=float(np.percentile(up, 95)),
                     result_bytes=float(link.counted_bytes(answer_bytes())))
    predictions = {"timed": _predicted(AnalyticLatencyModel(), timed, _MICROSECONDS, _MICROSECONDS, link.channel)}
    if machine is not None:
        sent = {name: getattr(timed, name) for name in ("payload_bytes_mean", "payload_bytes_p95", "result_bytes")}
        predictions["predicted"] = _predicted(machine.latency_model, subject.workload.model_copy(update=sent),
                                         machine.device, machine.edge, link.channel)
    return {f"{name}_{level}_ms": getattr(prediction, f"{level}_ms")
            for name, prediction in predictions.items() for level in ("p50", "p95")}


def _predicted(model: LatencyModel, workload: Workload, device: DeviceProfile, edge: DeviceProfile,
             channel: ChannelProfile) -> LatencySummary:
    conditions = Conditions(device=device, edge=edge, channel=channel, budget_ms=1000.0)
    return model.latency([workload], [conditions]).summary(0)


def _clock() -> DeviceProfile:
    """A machine that codes a symbol a microsecond, so that measured times can be given as work."""
    def set_to(value: float) -> Parameter:
        return Parameter(value=value, source="stages are timed")

    return DeviceProfile(
        name="timed", title="stages timed over a bare link", arithmetic="fp32", conv_mmacs=set_to(1),
        depthwise_mmacs=set_to(1), linear_mmacs=set_to(1), memory_mb_per_s=set_to(1), operator_overhead_us=set_to(0),
        coding_ksymbols=set_to(1000), image_kpixels=set_to(1), active_mw=set_to(0), idle_mw=set_to(0))


_MICROSECONDS = _clock()


# --- the link ---------------------------------------------------------------------------------------------------------


def _cell(bench: LinkBench, subject: _Subject, name: str, hosts: Hosts,
          link: contextlib.AbstractContextManager[tuple[str, int]], least_pause_ms: float = 0.0) -> None:
    file = subject.answers(name)
    if file.is_file():
        return
    with link as (host, port):
        found = _ask([*hosts.device, sys.executable, "-m", "autosplit.experiments.emulation.asking", subject.bundle,
                      subject.images,
                      f"{host}:{port}", "--count", bench.count, "--least", min(bench.least, bench.count), "--seconds",
                      bench.seconds, "--pause-ms", max(_PAUSE_MS, least_pause_ms), "--seed", bench.seed])
    write_whole(file, found.to_csv(index=False))


def _figures(subject: _Subject, answers: pd.DataFrame) -> dict[str, Any]:
    pairs = zip(answers["label"], subject.bare["label"], strict=False)  # the same images in the same order
    return {"payload_bytes": float(answers["payload_bytes"].mean()), "images": len(answers),
            "wrong": sum(label != bare for label, bare in pairs),
            "p50_ms": float(answers["total_ms"].median()), "p95_ms": float(answers["total_ms"].quantile(0.95)),
            **_sure_of_median(answers["total_ms"].to_numpy()),
            **{f"{stage}_ms": float(answers[f"{stage}_ms"].median()) for stage in ("encode", "link", "edge")}}


def _sure_of_median(times_ms: Array) -> dict[str, float]:
    """The 95 % confidence interval of a median, from order statistics (binomial, in its normal approximation)."""
    ordered, half = np.sort(times_ms), 0.98 * len(times_ms) ** 0.5
    low, high = max(0, int(len(ordered) / 2 - half)), min(len(ordered) - 1, int(np.ceil(len(ordered) / 2 + half)))
    return {"p50_low_ms": float(ordered[low]), "p50_high_ms": float(ordered[high])}


def _ask(command: Sequence[object]) -> pd.DataFrame:
    """Let a device ask; a row an image."""
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise LinkError(f"the device's process failed: {_last_line(ended.stderr)}")
    found: pd.DataFrame = pd.DataFrame([json.loads(line) for line in ended.stdout.splitlines()])
    return found


def _last_line(text: str) -> str:
    return (text.strip() or "no message").splitlines()[-1]


@contextlib.contextmanager
def _edge(bundle: Path, hosts: Hosts) -> Iterator[tuple[str, int]]:
    """The edge's process, served by the bundle's own runtime; gives its address."""
    bind = f"tcp://{hosts.edge_address}:{_PORT if hosts.namespaces else 0}"
    command = [*hosts.edge, sys.executable, "-m", PACKAGE, "serve", "--bind", bind, "--insecure", "--rate", "0",
               "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=bundle, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        if not first:
            raise LinkError(f"the edge's process failed: {_last_line(process.stderr.read())}")
        try:
            host, _, port = json.loads(first)["serving"].removeprefix("tcp://").rpartition(":")
            yield host, int(port)
        finally:
            process.terminate()
            process.communicate()
