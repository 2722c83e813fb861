"""`autosplit profile`: time the operators of backbones on this machine, and write a device profile of it."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

import torch

from autosplit.core.errors import ConfigError
from autosplit.core.machine import processor_name
from autosplit.core.profiles import DeviceProfile, load_profile
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.regression import fit_prices
from autosplit.core.timings import COLUMNS, HeldOut, Timing
from autosplit.latency.profiling.engines import Engine, OnnxEngine, TorchEngine
from autosplit.latency.profiling.stopwatch import Stopwatch, WallClock
from autosplit.latency.profiling.units import folded
from autosplit.latency.profiling.variants import DRAWN, LEVELS, variants_of
from autosplit.runtime.standalone.profiling.clock import ROUNDS, disturbance, undisturbed
from autosplit.runtime.standalone.profiling.coders import coding_ksymbols, image_kpixels
from autosplit.runtime.standalone.profiling.run import Machine, check_out, write_profile

__all__ = ["MachineProfile", "ProfileSettings", "engine_of", "profile_machine", "time_operators"]

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
        return None if self.device.timings is None else disturbance(self.device.timings.processor_share)


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
    check_out(out)
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
    where = f"{processor_name()}, {_threads_of(settings)}"
    machine = Machine(
        title=f"{where} of {os.cpu_count()} processors, fp32, {engine.title}", arithmetic="fp32",
        source=f"measured by autosplit profile on {where}, {datetime.date.today().isoformat()}",
        processor_share=stopwatch.processor_share, coding_ksymbols=coding, image_kpixels=pixels,
        active_mw=settings.active_mw, idle_mw=settings.idle_mw)
    rows = [(t.backbone, t.variant, t.node, *astuple(t.work), t.time_ms) for t in timings]
    write_profile(out, machine, COLUMNS, rows, {"held_out": {k: e.model_dump() for k, e in held_out.items()}})
    return MachineProfile(load_profile(DeviceProfile, str(out)), timings)


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
