"""`control`: what decides over each picture of a stream, for a bundle of several rates."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from scipy.stats import bootstrap

from autosplit.agents.control.learned import ControlPPO, train_controller
from autosplit.agents.control.play import play
from autosplit.agents.control.tuning import RULES, best_for_all
from autosplit.core.arrays import Array
from autosplit.core.errors import BundleError, ConfigError, unwritable
from autosplit.core.hashing import sha256_of_file
from autosplit.core.intervals import Interval
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.result import Result
from autosplit.envs.fleet.core import FleetCore
from autosplit.envs.stream.around import StreamsAround
from autosplit.envs.stream.arrivals import Arrivals
from autosplit.envs.stream.known import Known
from autosplit.envs.stream.levels import Level
from autosplit.latency.random import Z95
from autosplit.runtime.standalone.bundle.manifest import Manifest
from autosplit.runtime.standalone.control.controller import Controller
from autosplit.runtime.standalone.control.network import NetworkController
from autosplit.runtime.standalone.control.record import ControllerRecord
from autosplit.runtime.standalone.control.rules import FairShare, Myopic, Rule

__all__ = ["FIXED", "MYOPIC", "NETWORK", "RULE", "Compared", "TrainedController", "control", "levels_of"]

_TRAINING, _TUNING, _CHOOSING, _TESTING = 48, 16, 40, 40  # streams of each part
_EPISODES, _TUNING_EPISODES = 8, 2
_PICTURES, _LEAST_PICTURES = 200, 40  # of an episode, of all devices together; of one of them
_SEEDS = {"training": 0, "choosing": 1, "testing": 2}
MYOPIC, FIXED, RULE, NETWORK = "switching by the link alone", "one rate for all", "tuned rule", "network"


@dataclass(frozen=True)
class Compared:
    """How a controller did in simulated streams that nothing was trained in, tuned to or chosen by.

    Attributes:
        name: Of the controller.
        setting: Of its rule; empty for a network.
        in_time_accuracy: Right answers in time over all pictures, mean over the streams.
        behind: By how much the chosen one is ahead of it, in the mean.
        interval: 95 % interval of that (bootstrap over streams, paired).
    """

    name: str
    setting: str
    in_time_accuracy: float
    behind: float
    interval: Interval


@dataclass(frozen=True)
class TrainedController:
    """What a bundle got.

    Attributes:
        manifest: Of the bundle, with its controller.
        chosen: Name of what was chosen.
        compared: All that were compared, the chosen one among them.
        network_ahead: Interval of what the network is ahead of the tuned rule by, in the streams that decided between
            the two.
        streams: How many the figures are over.
        controllers: Those that were compared, by their names.
    """

    manifest: Manifest
    chosen: str
    compared: tuple[Compared, ...]
    network_ahead: Interval
    streams: int
    controllers: dict[str, Controller]


def control(
    run: Path,
    bundle: Path,
    arrivals: Arrivals,
    *,
    devices: int = 1,
    deadline_ms: float | None = None,
    buffer: int = 8,
    steps: int = 600_000,
    seed: int = 0,
    progress: PhaseReporter | None = None,
    trust_code: bool = False,
) -> TrainedController:
    """Give a bundle of several rates a controller: a rule that was tuned, or a trained network where that is better.

    Both know the same fleets (of one device, where it is alone), drawn around the run's conditions (`StreamsAround`):
    the rule with the highest reward of all families and settings, and a network trained by PPO. In other fleets it is
    seen whether the network is ahead beyond the 95 % interval; if it is not, the bundle gets the rule. Figures are from
    yet others.

    Args:
        run: Directory of the run that the bundle was made of: its conditions are what the simulation is around.
        bundle: Folder that `adapt` wrote. Its manifest is written anew; both halves stay what they are.
        arrivals: When pictures come at a device.
        devices: That share link and edge.
        deadline_ms: Of every picture, from its arrival; that of the bundle's switching table by default.
        buffer: Pictures that wait at most.
        steps: Decisions of the network's training.
        seed: Of streams and training.
        progress: Shows the phases.
        trust_code: Whether code may run that the run names and that never ran here.

    Raises:
        ConfigError: The bundle has one rate alone, a number is out of its range, or the folder cannot be written.
        BundleError: The bundle is damaged, or was made of another run.
    """
    progress = progress or NullProgress()
    manifest = Manifest.load(bundle)
    if manifest.switching is None:
        raise ConfigError(f"{bundle} has one rate alone, so nothing can be decided; `autosplit adapt` makes bundles of "
                          "several")
    if not 1 <= devices <= 1000 or buffer < 1 or steps < 1:
        raise ConfigError(f"devices must lie in [1, 1000], buffer and steps be at least 1; got {devices}, {buffer} and "
                          f"{steps}")
    if not os.access(bundle, os.W_OK):  # before minutes of training, not after
        raise ConfigError(f"{bundle} cannot be written; copy the bundle to a place of yours")
    result = Result.load(run / "best.json", trust_code=trust_code)
    if manifest.source is None or manifest.source.data_fingerprint != result.provenance.data_fingerprint:
        raise BundleError(f"{bundle} was not made of {run}; name the run that `adapt` was given")
    deadline_ms = manifest.switching.budget_ms if deadline_ms is None else deadline_ms
    if not 0 < deadline_ms <= 65_000:
        raise ConfigError(f"the deadline must lie in (0, 65000] ms, got {deadline_ms:g}")
    conditions = result.scenario.conditions.model_copy(update={"budget_ms": deadline_ms})
    around = StreamsAround(levels_of(manifest), conditions, arrivals, devices,
                           max(_PICTURES // devices, min(_PICTURES, _LEAST_PICTURES)), buffer)
    parts = {name: around.draw(count, seed * len(_SEEDS) + _SEEDS[name])
             for name, count in (("training", _TRAINING), ("choosing", _CHOOSING), ("testing", _TESTING))}

    with progress.phase("tune the rules", total=len(_families(devices))) as advance:
        tuned = {}
        core = FleetCore(parts["training"][:_TUNING], _TUNING_EPISODES, seed)
        for name, family in _families(devices).items():
            tuned[name] = best_for_all(family.all(core.levels), core, _TUNING_EPISODES, seed)
            advance(1)
    rule = best_for_all(list(tuned.values()), core, _TUNING_EPISODES, seed)
    with progress.phase("train the network", total=steps) as advance:
        network = train_controller(parts["training"], ControlPPO(steps=steps), seed, advance=advance)

    with progress.phase("choose"):
        core = FleetCore(parts["choosing"], _EPISODES, seed + 1)
        ahead = _interval(_accuracy(network, core, seed) - _accuracy(rule, core, seed))
    chosen = NETWORK if ahead.low > 0 else RULE
    controllers: dict[str, Controller] = {MYOPIC: Myopic(), FIXED: tuned["fixed"], RULE: rule, NETWORK: network}
    with progress.phase("test"):
        core = FleetCore(parts["testing"], _EPISODES, seed + 2)
        figures = {name: _accuracy(each, core, seed) for name, each in controllers.items()}
    compared = tuple(Compared(
        name, "" if name == NETWORK else repr(controllers[name]), float(values.mean()),
        float((figures[chosen] - values).mean()), _interval(figures[chosen] - values))
        for name, values in figures.items())
    record = _record(controllers[chosen], around, float(figures[chosen].mean()))
    written = _written(bundle, manifest, record, controllers[chosen])
    return TrainedController(written, chosen, compared, ahead, _TESTING, controllers)


def _families(devices: int) -> dict[str, type[Rule]]:
    """Rules that make sense: a fair share is for those who share."""
    return {name: rule for name, rule in RULES.items() if devices > 1 or rule is not FairShare}


def levels_of(manifest: Manifest) -> tuple[Level, ...]:
    """The rates of a bundle as levels of a stream."""
    return tuple(Level(
        rate.label, rate.device_ms, 0.0, rate.edge_ms, rate.payload_bytes,
        max(0.0, rate.payload_bytes_p95 - rate.payload_bytes) / Z95, 1.0, 0.0, rate.accuracy)
        for rate in manifest.rates)


def _accuracy(controller: Controller, core: FleetCore, seed: int) -> Array:
    """Right answers in time of each stream, a share of all its pictures, shape (streams,)."""
    everywhere = np.repeat(np.arange(len(core.streams)), _EPISODES)
    found: Array = play(core, controller, everywhere, seed).accuracy.reshape(-1, _EPISODES).mean(axis=1)
    return found


def _interval(differences: Array) -> Interval:
    if np.ptp(differences) == 0:  # of which there is nothing to draw again
        return Interval(float(differences[0]), float(differences[0]))
    found = bootstrap((differences,), np.mean, n_resamples=4000, rng=np.random.default_rng(0)).confidence_interval
    return Interval(float(found.low), float(found.high))


def _record(controller: Controller, around: StreamsAround, accuracy: float) -> ControllerRecord:
    known = Known.of(around.as_told().devices[:1], len(around.levels))
    kind, settings = ControllerRecord.settings_of(controller)
    return ControllerRecord(
        kind, settings, "", around.conditions.budget_ms, around.buffer, around.devices, float(known.mean_kbps[0]),
        float(known.delays_ms[0]), float(known.packet_bytes[0]), float(known.overhead_bytes[0]), accuracy)


def _written(bundle: Path, manifest: Manifest, record: ControllerRecord, controller: Controller) -> Manifest:
    """The manifest with its controller, written, and the network beside it, if it is one.

    A file of another name for each network, and the old one gone last: the bundle is whole all the time.
    """
    files = dict(manifest.files)
    old = manifest.controller.weights if manifest.controller else ""
    files.pop(old, None)
    try:
        if isinstance(controller, NetworkController):
            digest = sha256(b"".join(controller.weights[name].tobytes() for name in controller.NAMES))
            record = replace(record, weights=f"controller-{digest.hexdigest()[:12]}.npz")
            controller.save(bundle / record.weights)
            files[record.weights] = sha256_of_file(bundle / record.weights)
        written = replace(manifest, controller=record, files=files).save(bundle)
        if old and old != record.weights:
            (bundle / old).unlink(missing_ok=True)
    except OSError as e:
        raise unwritable(bundle, e) from e
    return written
