"""`python -m coinference profile`: time the networks of a bundle here, and write the device profile of this machine."""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import DEVICE, EDGE, ENCODER, EXIT, FALLBACK, Manifest
from ..bundle.parts import Network
from ..bundle.rates import encoder_file, tail_file
from ..errors import BundleError, ConfigError
from ..options import ProfileOptions
from ..payload.image_codecs import IMAGE_KINDS
from ..protocol.wire import short_key
from .clock import Clock, Seconds, Timer, WallClock, steady_medians, undisturbed
from .coders import coding_ksymbols, image_kpixels
from .compiled import Steps, read_steps, run_steps
from .kernels import attributed, kernel_seconds, shared
from .operators import C_STEPS, OperatorTable
from .processor import processor_name

__all__ = ["BundleProfile", "Machine", "check_out", "profile_bundle", "write_profile"]

_SHORTEST_MS = 1e-6
_SYMBOL_MACS = 200  # as the packaged profiles of microcontrollers assume
_TYPES = {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32, "tensor(float)": np.float32}

Parameter = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """What a device profile says of a machine beside its timed operators.

    Attributes:
        title: One line for people.
        arithmetic: Number format that its networks run in.
        source: Of all that was measured.
        processor_share: See `Clock.processor_share`.
        coding_ksymbols: Thousand symbols a second of the payload coder; `None` = was not measured.
        image_kpixels: Thousand pixels a second of the image encoder, likewise.
        active_mw: Power while computing, `None` = not known.
        idle_mw: Power while waiting, likewise.
    """

    title: str
    arithmetic: str
    source: str
    processor_share: float | None
    coding_ksymbols: float | None
    image_kpixels: float | None
    active_mw: float | None
    idle_mw: float | None


@dataclass(frozen=True)
class BundleProfile:
    """A bundle, timed.

    Attributes:
        machine: On which.
        wholes_ms: Milliseconds of each network.
        operators: How many were timed.
    """

    machine: Machine
    wholes_ms: dict[str, float]
    operators: int


def profile_bundle(folder: Path, out: Path, options: ProfileOptions, *, log: Path | None = None,
                   clock: Clock | None = None) -> BundleProfile:
    """Time the networks of a bundle and write the device profile of this machine, its timings beside it.

    Args:
        folder: The bundle.
        out: The profile, NAME.yaml; the timings become NAME.csv.
        options: What is timed, and how.
        log: What `time.c` printed on a board; nothing runs here then.
        clock: Another clock, for tests.

    Raises:
        BundleError: The bundle is damaged, has nothing to time on this side, or does not run here.
        ConfigError: `out` is no YAML file or cannot be written, a package or a compiler is absent, or the log is none.
    """
    check_out(out)
    if (log is None) != (options.clock_mhz is None):
        raise ConfigError("--ticks and --clock-mhz belong together: a board's log, and the frequency of its counter")
    manifest, table = Manifest.load(folder), OperatorTable.load(folder)
    clock = clock or WallClock()
    coding: float | None
    if log is not None or options.engine == "c":
        steps = _steps_of(folder, manifest, table, options, log)
        timed, coding, pixels, share = _by_operator(table, steps), _coding(manifest, steps), None, steps.processor_share
        engine, arithmetic = "autosplit's C", manifest.arithmetic
    else:
        timed = _networks_of(folder, manifest, table, options, clock)
        coding = coding_ksymbols(clock, options.repeats, folder if options.side == "device" else None)
        pixels = image_kpixels(manifest.image_shape, clock, options.repeats)
        share = clock.processor_share
        import onnxruntime

        engine = f"onnxruntime {onnxruntime.__version__}"
        arithmetic = manifest.arithmetic if options.side == "device" else "fp32"
    where = (f"a board at {options.clock_mhz:g} MHz" if options.clock_mhz is not None else
             f"{processor_name()}, {options.threads} thread{'s' if options.threads != 1 else ''} of {os.cpu_count()} "
             "processors")
    # what did not run on a board is not known
    rows = [[manifest.backbone, name, *row, max(1e3 * float(s), _SHORTEST_MS)] for name, seconds in timed.items()
            for row, s in zip(table.files[name].rows, seconds, strict=True) if not np.isnan(s)]
    machine = Machine(
        title=f"{where}, {arithmetic}, {engine}", arithmetic=arithmetic,
        source=f"timed by the bundle {manifest.key} on {where}, {engine}, {datetime.date.today().isoformat()}",
        processor_share=share, coding_ksymbols=coding, image_kpixels=pixels,
        active_mw=options.active_mw, idle_mw=options.idle_mw)
    write_profile(out, machine, table.columns, rows)
    wholes: dict[str, float] = {}
    for _, name, operator, *_, ms in rows:
        network = f"{name} {operator.rpartition('/')[0]}".strip()
        wholes[network] = wholes.get(network, 0.0) + ms
    return BundleProfile(machine, wholes, len(rows))


def check_out(out: Path) -> None:
    """Look, before anything is timed, whether a profile can be written; its folder is made.

    Raises:
        ConfigError: It is no YAML file, or cannot be written.
    """
    if out.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"--out {str(out)!r}: name a device profile NAME.yaml")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(out.parent, os.W_OK) or out.is_dir():
            raise PermissionError(None, "no file can be written there")
    except OSError as e:
        raise _unwritable(out, e) from e


def _unwritable(out: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot write {str(out)!r}: {error.strerror or error}; choose another file with --out")


def write_profile(out: Path, machine: Machine, columns: Sequence[str], rows: Sequence[Sequence[Any]],
                  further: Mapping[str, Any] | None = None) -> None:
    """Write a device profile that consists of timings: NAME.yaml, and NAME.csv beside it.

    The rates of the latency model `analytic` are not written: they follow from the timings.

    Args:
        out: The profile.
        machine: What else it says.
        columns: Of a row, without the first two and the last.
        rows: An operator each: backbone, variant, its columns, milliseconds.
        further: More of the block `timings`.

    Raises:
        ConfigError: A file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["backbone", "variant", *columns, "time_ms"])
    writer.writerows([*row[:-1], f"{row[-1]:.6g}"] for row in rows)
    content, timings = text.getvalue().encode(), out.with_suffix(".csv")
    block: dict[str, Any] = {"file": timings.name, "sha256": hashlib.sha256(content).hexdigest(),
                             "source": machine.source, **(further or {})}
    if machine.processor_share is not None:
        block["processor_share"] = round(machine.processor_share, 3)
    pixels = _measured(machine.image_kpixels, f"{machine.source}: JPEG of quality 75",
                       1.0, "1,000 pixels a second, so slow that no plan sends a picture")
    coding = _measured(machine.coding_ksymbols, f"{machine.source}: the payload coder", _assumed_coding(columns, rows),
                       f"a symbol takes as long as {_SYMBOL_MACS} multiply-accumulates of the layers")
    profile = {"name": out.stem, "title": machine.title, "arithmetic": machine.arithmetic, "timings": block,
               "coding_ksymbols": coding, "image_kpixels": pixels,
               "active_mw": _power(machine.active_mw, "--active-mw"), "idle_mw": _power(machine.idle_mw, "--idle-mw")}
    # each value as JSON, which YAML takes: a device need not have a package that writes YAML
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in profile.items()]
    try:
        timings.write_bytes(content)
        out.write_text("".join(lines), encoding="utf-8")
    except OSError as e:
        raise _unwritable(out, e) from e


def _measured(value: float | None, source: str, otherwise: float, assumption: str) -> Parameter:
    if value is None:
        return {"value": float(f"{otherwise:.4g}"), "assumption": True, "source": f"was not measured: {assumption}"}
    return {"value": float(f"{value:.4g}"), "source": source}


def _assumed_coding(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> float:
    """Thousand symbols a second of a coder that was not timed, by the speed of what was."""
    places = [2 + list(columns).index(name) for name in ("rows", "columns", "kernel", "positions")]
    macs = sum(prod(row[place] for place in places) for row in rows)
    return float(max(macs, 1) / sum(row[-1] for row in rows) / _SYMBOL_MACS)


def _power(value: float | None, option: str) -> Parameter:
    if value is None:
        return {"value": 0, "assumption": True, "source": f"not known ({option} was not given): energies leave this "
                "out"}
    return {"value": value, "source": f"given by {option}"}


def _networks_of(folder: Path, manifest: Manifest, table: OperatorTable, options: ProfileOptions,
                 clock: Clock) -> dict[str, Seconds]:
    """Seconds of each operator of each ONNX file of one side."""
    rates = range(len(manifest.rates))
    files = ([DEVICE, ENCODER, *map(encoder_file, rates), EXIT, FALLBACK] if options.side == "device"
             else [EDGE, *map(tail_file, rates)])
    names = [name for name in files if name in manifest.files and name in table.files and table.files[name].rows]
    if not names:
        remedy = ("export it with --fallback, which adds the whole network" if options.side == "device" else
                  "the whole network runs on the device: time that side")
        raise BundleError(f"{folder}: the {options.side} of this bundle runs no network that can be timed; {remedy}")
    timers = [_timer(folder / name, table, name, options.threads, clock) for name in names]
    return dict(zip(names, undisturbed(timers, options.repeats), strict=True))


def _timer(path: Path, table: OperatorTable, name: str, threads: int, clock: Clock) -> Timer:
    network, operators, moved = Network(path, threads), table.files[name], table.moved(name)
    (given,) = network.session.get_inputs()
    feed = {given.name: _input(given.type, tuple(given.shape[1:]), path)}
    run = partial(network.session.run, None, feed)

    def times(most: int) -> Seconds:
        whole = float(steady_medians(lambda: [clock.call(run)], most)[0])
        try:
            return attributed(moved, operators.owners, kernel_seconds(str(path), feed, threads, most), whole)
        except ConfigError as e:
            raise ConfigError(f"{path}: {e}; take the release that the manifest names, or --engine c") from e

    return times


def _input(kind: str, shape: tuple[Any, ...], path: Path) -> NDArray[Any]:
    """One input for a network: pixels, a feature or symbols, drawn at random."""
    if kind not in _TYPES or not all(isinstance(side, int) for side in shape):
        raise BundleError(f"{path} takes {kind} of shape {shape}; export the bundle again")
    rng = np.random.default_rng(0)
    drawn = (rng.random((1, *shape)) if kind == "tensor(float)" else
             rng.integers(0, 2 if kind == "tensor(int32)" else 256, (1, *shape)))
    return drawn.astype(_TYPES[kind])


def _steps_of(folder: Path, manifest: Manifest, table: OperatorTable, options: ProfileOptions,
              log: Path | None) -> Steps:
    """What the program that times the C sources prints, here or in the log of a board."""
    if options.side == "edge":
        raise ConfigError("the edge of a bundle has no C sources; take --engine onnxruntime")
    if log is None and options.threads != 1:
        raise ConfigError("the C sources run on one thread; leave out --threads")
    if C_STEPS not in table.files:
        remedy = ("its device sends pictures, which are not written as C" if manifest.kind in IMAGE_KINDS
                  else "export the bundle with --target c")
        raise BundleError(f"{folder}: no C sources that can be timed; {remedy}")
    key, steps, rates = short_key(manifest.key).hex(), len(table.files[C_STEPS].owners), max(1, len(manifest.rates))
    if log is None:
        return run_steps(folder / C_STEPS, key, steps, rates)
    assert options.clock_mhz is not None
    return read_steps(log, options.clock_mhz, key, steps, rates)


def _by_operator(table: OperatorTable, steps: Steps) -> dict[str, Seconds]:
    """Seconds of each operator of the C sources, NaN for those that did not run."""
    operators = table.files[C_STEPS]
    ran = {operators.owners[number] for number in steps.seconds}
    seconds = shared(table.moved(C_STEPS), operators.owners, steps.seconds)
    return {C_STEPS: np.array([s if s > 0 or i in ran else np.nan for i, s in enumerate(seconds)])}


def _coding(manifest: Manifest, steps: Steps) -> float | None:
    """Thousand symbols a second of the payload coder in C; `None` where nothing was sent."""
    shapes: list[tuple[int, ...]] = [rate.code_shape for rate in manifest.rates] or [manifest.code_shape]
    spent = sum(steps.payload_seconds.values())
    return sum(prod(shapes[rate]) for rate in steps.payload_seconds) / spent / 1e3 if spent > 0 else None
