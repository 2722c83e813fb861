"""`autosplit profile`: time the operators of backbones on this machine, and write a device profile of it."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import yaml

from autosplit.core.errors import ConfigError, unwritable
from autosplit.core.files import write_whole
from autosplit.core.machine import processor_name
from autosplit.core.parameters import Parameter
from autosplit.core.profiles import DeviceProfile
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.timings import HeldOut, Timing, Timings, write_timings
from autosplit.latency.profiling.engines import ROUNDS, Engine, OnnxEngine, TorchEngine, undisturbed
from autosplit.latency.profiling.machine import coding_ksymbols, image_kpixels
from autosplit.latency.profiling.stopwatch import Stopwatch, WallClock
from autosplit.latency.profiling.units import folded
from autosplit.latency.profiling.variants import DRAWN, LEVELS, variants_of
from autosplit.latency.regression import fit_prices, solve_rates

__all__ = ["MachineProfile", "ProfileSettings", "engine_of", "profile_machine", "time_operators"]

_ELEMENT_BYTES = 4
_FASTEST = 1e9  # a rate that stands for no cost at all

_UNDISTURBED = 0.95  # share of the time with a processor that a quiet machine gives

# depthwise over dense rate where none was timed, as in the packaged profiles: the ratio solved for the Cortex-M4
_DEPTHWISE_SHARE = 1 / 7


@dataclass(frozen=True)
class ProfileSettings:
    """What is timed, and how.

    Attributes:
        backbones: Names as for `build_backbone`.
        shape: Shape (C, H, W) of their input.
        threads: Threads of the engine.
        engine: What runs them: `torch`, or `onnxruntime` as in bundles.
        repeats: Passes through each version at most.
        active_mw: Power of the machine while computing, if it is known.
        idle_mw: Power while waiting, if it is known.
    """

    backbones: tuple[str, ...]
    shape: tuple[int, int, int]
    threads: int
    engine: Literal["torch", "onnxruntime"] = "torch"
    repeats: int = 60
    active_mw: float | None = None
    idle_mw: float | None = None


@dataclass(frozen=True)
class MachineProfile:
    """A machine, profiled.

    Attributes:
        device: Its profile, as it is on disk.
        timings: What was timed.
    """

    device: DeviceProfile
    timings: tuple[Timing, ...]

    @property
    def held_out(self) -> dict[str, HeldOut]:
        """Error of the regression on shapes it has not seen, by operator type."""
        return {} if self.device.timings is None else self.device.timings.held_out

    @property
    def disturbance(self) -> str | None:
        """What to say where other programs took the processor meanwhile; `None` where they did not."""
        share = None if self.device.timings is None else self.device.timings.processor_share
        if share is None or share >= _UNDISTURBED:
            return None
        return (f"the timing thread had a processor only {share:.0%} of the time, so the timings are too long; profile "
                "again when the machine is quiet")


def profile_machine(settings: ProfileSettings, out: Path, *, progress: PhaseReporter | None = None,
                    stopwatch: Stopwatch | None = None) -> MachineProfile:
    """Time operators and write the device profile, its timings beside it.

    Args:
        settings: What is timed, and how.
        out: The profile, NAME.yaml; the timings become NAME.csv.
        progress: Shows the phases.
        stopwatch: Another clock, for tests.

    Raises:
        ConfigError: `out` is no YAML file or cannot be written, or a backbone has no operator.
        AutosplitError: A backbone cannot be built or traced.
    """
    if out.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"--out {str(out)!r}: name a device profile NAME.yaml")
    stopwatch, progress = stopwatch or WallClock(), progress or NullProgress()
    engine = engine_of(settings, stopwatch)
    with _threads(settings.threads):
        timings = tuple(t for name in settings.backbones
                        for t in time_operators(name, settings, engine, progress))
        with progress.phase("time coders"):
            coding = coding_ksymbols(stopwatch, settings.repeats)
            pixels = image_kpixels(settings.shape, stopwatch, settings.repeats)
    with progress.phase("fit"):
        _, held_out = fit_prices(timings)
        parameters = _parameters(timings, coding, pixels, settings)
    csv = out.with_suffix(".csv")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sha256 = write_timings(csv, timings)
        share = stopwatch.processor_share
        block = Timings(file=str(csv), sha256=sha256, held_out=held_out,
                        processor_share=None if share is None else round(share, 3))
        title = (f"{processor_name()}, {_threads_of(settings)} of {os.cpu_count()} processors, fp32, {engine.title}")
        device = DeviceProfile.model_validate({"name": out.stem, "title": title, "arithmetic": "fp32",
                                               "timings": block, **parameters})
        data = device.model_dump(mode="json")
        data["timings"]["file"] = csv.name  # relative to the profile, as a profile of its own wants it
        write_whole(out, yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120))
    except OSError as e:
        raise unwritable(out.parent, e) from e
    return MachineProfile(device, timings)


def engine_of(settings: ProfileSettings, stopwatch: Stopwatch) -> Engine:
    """The engine that settings ask for.

    Raises:
        ConfigError: Its packages are absent.
    """
    return TorchEngine(stopwatch) if settings.engine == "torch" else OnnxEngine(stopwatch, settings.threads)


def time_operators(backbone: str, settings: ProfileSettings, engine: Engine, progress: PhaseReporter) -> list[Timing]:
    """Time every operator of a backbone and of its pruned versions.

    Raises:
        ConfigError: The backbone has no operator.
        AutosplitError: It cannot be built or traced.
    """
    image = torch.randn(1, *settings.shape, generator=torch.Generator().manual_seed(0))
    labels, units, timers = [], [], []
    with progress.phase(f"prepare {backbone}", len(LEVELS) + DRAWN) as advance:
        for variant in variants_of(backbone, settings.shape):
            mine, timer = engine.by_unit(folded(variant.network), image)
            if not mine:
                raise ConfigError(f"backbone {backbone!r} has no operator that counts; there is nothing to time")
            labels.append(variant.label)
            units.append(mine)
            timers.append(timer)
            advance(note=variant.label)
    with progress.phase(f"time {backbone}", ROUNDS * len(timers)) as advance:
        seconds = undisturbed(timers, settings.repeats, advance)
    return [Timing(backbone, label, unit.node, work, max(1e3 * float(s) * share, 1e-6))
            for label, mine, times in zip(labels, units, seconds, strict=True)
            for unit, s in zip(mine, times, strict=True) for work, share in unit.shares]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _threads_of(settings: ProfileSettings) -> str:
    return f"{settings.threads} thread{'s' if settings.threads != 1 else ''}"


def _parameters(
    timings: Sequence[Timing], coding: float, pixels: float, settings: ProfileSettings
) -> dict[str, Parameter]:
    """The parameters of the device profile, each with its source."""
    measured = (f"measured by autosplit profile on {processor_name()}, {_threads_of(settings)}, "
                f"{datetime.date.today().isoformat()}")
    solved = f"{measured}: solved from {len(timings)} operators of {', '.join(settings.backbones)}"
    prices = solve_rates(timings)
    timed = {t.work.kind for t in timings}

    def rate(kind: str, units_per_ms: float) -> Parameter:
        """Rate of a price in milliseconds."""
        price = prices[kind]
        if price <= 0:
            return Parameter(value=_FASTEST, source=f"{solved}; the timings show no such cost")
        return Parameter(value=_rounded(units_per_ms / price), source=solved)

    def power(value: float | None, option: str) -> Parameter:
        if value is None:
            return Parameter(value=0, assumption=True,
                             source=f"not known ({option} was not given): energies leave this out")
        return Parameter(value=value, source=f"given by {option}")

    dense = rate("conv_macs", 1e-3)
    depthwise = rate("depthwise_macs", 1e-3) if "depthwise" in timed else Parameter(
        value=_rounded(dense.value * _DEPTHWISE_SHARE), source="a seventh of the dense rate, as no depthwise "
        "convolution was timed", assumption=True)
    linear = rate("linear_macs", 1e-3) if "linear" in timed else Parameter(
        value=dense.value, source="as dense convolutions, as no fully connected layer was timed", assumption=True)
    return {
        "conv_mmacs": dense, "depthwise_mmacs": depthwise, "linear_mmacs": linear,
        "memory_mb_per_s": rate("elements", 1e-3 * _ELEMENT_BYTES),
        "operator_overhead_us": Parameter(value=_rounded(1e3 * prices["operators"]), source=solved),
        "coding_ksymbols": Parameter(value=_rounded(coding),
                                     source=f"{measured}: one thread of the range coder, 4 bits"),
        "image_kpixels": Parameter(value=_rounded(pixels), source=f"{measured}: JPEG of quality 75"),
        "active_mw": power(settings.active_mw, "--active-mw"), "idle_mw": power(settings.idle_mw, "--idle-mw"),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
