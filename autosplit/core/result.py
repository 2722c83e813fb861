"""The result file `best.json` and its schema; weights lie beside it as safetensors, addressed by a relative path."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from autosplit.core.blueprint import Blueprint
from autosplit.core.comparison import ComparisonRow
from autosplit.core.errors import ConfigError, ResultError
from autosplit.core.files import write_whole
from autosplit.core.hashing import source_hash
from autosplit.core.machine import processor_name
from autosplit.core.measurement import Outcome
from autosplit.core.plan import Plan
from autosplit.core.records import writing
from autosplit.core.scenario import Scenario
from autosplit.core.trust import named_in_file
from autosplit.core.validation import Frozen, first_error
from autosplit.core.version import __version__
from autosplit.runtime.standalone.files import read_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RESULT_FILE", "SCHEMA_VERSION", "Chosen", "DeploymentFile", "Provenance", "Result", "TestFigures",
           "Tolerance", "json_schema", "provenance"]

RESULT_FILE = "best.json"
"""Name of the result in a run directory."""

SCHEMA_VERSION = 1


class TestFigures(Frozen):
    """The one reading of the test set.

    Attributes:
        correct: Test images classified right, through decoded payloads.
        images: Test images.
        payload_bytes_total: Bytes of all payloads.
        payload_bytes_p95: 95th percentile of a payload.
        payload_sha256: Hash of all payloads one after the other.
    """

    __test__ = False  # pytest: this is no test class

    correct: int = Field(ge=0)
    images: int = Field(ge=1)
    payload_bytes_total: int = Field(ge=0)
    payload_bytes_p95: float = Field(ge=0)
    payload_sha256: str

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy in [0, 1]."""
        return self.correct / self.images


class DeploymentFile(Frozen):
    """Where the weights are.

    Attributes:
        blueprint: The structure they fit.
        weights: Path relative to the result file, with forward slashes.
        sha256: Hash of that file.
        class_names: What the outputs mean, one each; empty in files from before they were recorded.
    """

    blueprint: Blueprint
    weights: str
    sha256: str
    class_names: tuple[str, ...] = ()


class Tolerance(Frozen):
    """How far a replay on another machine may be off; on the machine that wrote the file it has to be exact.

    A replay goes by these values, whatever a file says of them.

    Floating-point sums differ between processors in the last bits, which can move a value across a rounding
    threshold of the quantiser.

    Attributes:
        accuracy_points: Percentage points of test accuracy.
        payload_percent: Percent of all payload bytes.
        latency_percent: Percent of the median latency.
    """

    accuracy_points: float = 0.2
    payload_percent: float = 0.2
    latency_percent: float = 0.5


class Provenance(Frozen):
    """Where a result comes from.

    Attributes:
        autosplit: Version.
        versions: Versions of the libraries that the numbers depend on.
        python: Version.
        machine: Operating system and processor.
        cpu_capability: Vector instructions that torch uses.
        threads: Threads of torch.
        seed: Seed of everything random.
        data_fingerprint: Hash of the data set.
        backbone_key: Hash of what determined the backbone's weights.
        supernet_key: Hash of what determined the supernet's weights.
        agent: Who searched.
        evaluations: Measurements taken in total.
        seconds: Wall time by phase.
        processor: Name of the processor; like the next two empty in files from before it.
        source: Hash of the code of autosplit.
        accelerator: Name of what trained the networks and measured plans (F1): the processor, or a graphics card.
            Deployments, and so all figures of the result, are of the processor.
    """

    autosplit: str
    versions: dict[str, str]
    python: str
    machine: str
    cpu_capability: str
    threads: int
    seed: int
    data_fingerprint: str
    backbone_key: str
    supernet_key: str
    agent: str
    evaluations: int
    seconds: dict[str, float]
    processor: str = ""
    source: str = ""
    accelerator: str = ""


class Chosen(Frozen):
    """Why this plan and no other, by validation images.

    Attributes:
        best: Label of the plan of the highest reward.
        equals: Labels of the fine-tuned plans in time that cannot be told apart from it, nor are more than a point
            below it, itself among them: of these the cheapest was taken (energy, then bytes, then latency). Empty
            where none is in time.
        half_width_points: Smaller differences of accuracy than about this, percentage points, these images cannot show
            (95 %); 0 where there was nothing to tell apart.
        images: Validation images.
        sources: What they were made from; `None` where each stands for itself.
        best_baseline: Method of the baseline that is taken by the same rule where only baselines are compared.
    """

    best: str
    equals: tuple[str, ...]
    half_width_points: float = Field(ge=0)
    images: int = Field(ge=1)
    sources: int | None = None
    best_baseline: str


@dataclass
class _Place:
    """The file that a result was read from or written to; where it lies does not make it another result."""

    path: Path | None = field(default=None, compare=False)


class Result(Frozen):
    """What a search found.

    `load` reads one; `Deployment.from_result` gives what was found, ready to classify images.

    Attributes:
        schema_version: Of this file's format.
        scenario: What was searched.
        feasible: Whether the plan meets the budget; if not, it is the least infeasible one.
        plan: The plan.
        outcome: Its fine-tuned measurement on validation data, latency and reward: what it was chosen by.
        backbone_accuracy: Test accuracy of the unsplit backbone.
        test: The plan on the test set.
        comparison: The plan beside the baselines and its other finalists, test accuracies.
        choice: Why this plan was chosen; absent in files from before it.
        warnings: What makes the figures say less than they seem to, a line each.
        stored: The weights; `deployment` in the file.
        tolerance: Of a replay.
        provenance: Where it comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    schema_version: Literal[1] = 1
    scenario: Scenario
    feasible: bool
    plan: Plan
    outcome: Outcome
    backbone_accuracy: float = Field(ge=0, le=1)
    test: TestFigures
    comparison: tuple[ComparisonRow, ...]
    choice: Chosen | None = None
    warnings: tuple[str, ...] = ()
    stored: DeploymentFile = Field(alias="deployment")
    tolerance: Tolerance = Tolerance()
    provenance: Provenance
    _place: _Place = PrivateAttr(default_factory=_Place)

    def to_frame(self) -> pd.DataFrame:
        """The plan beside the baselines and other finalists: a row each, nested figures as `latency.p95_ms`."""
        import pandas as pd

        return pd.json_normalize([row.model_dump(mode="json") for row in self.comparison])

    @field_validator("comparison")
    @classmethod
    def _one_chosen(cls, rows: tuple[ComparisonRow, ...]) -> tuple[ComparisonRow, ...]:
        if sum(row.chosen for row in rows) != 1:
            raise ValueError("exactly one row must be the chosen plan")
        return rows

    @property
    def best_baseline(self) -> str:
        """Method of the baseline that was best on validation images; empty where that was not recorded."""
        return "" if self.choice is None else self.choice.best_baseline

    def __repr_args__(self) -> list[tuple[str, object]]:
        return [("scenario", self.scenario.name), ("plan", self.plan.label), ("feasible", self.feasible),
                ("test_accuracy", round(self.test.accuracy, 4)), ("p95_ms", round(self.outcome.latency.p95_ms, 2))]

    def save(self, path: Path, weights: Path | None = None) -> None:
        """Write the file whole or not at all; `weights` replaces the recorded path by one relative to `path`.

        Raises:
            ConfigError: The file cannot be written.
        """
        result = self
        if weights is None:
            self._place.path = path
        else:
            relative = Path(os.path.relpath(weights, path.parent)).as_posix()
            result = self.model_copy(update={"stored": self.stored.model_copy(update={"weights": relative})})
        with writing(path):
            write_whole(path, result.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path, *, trust_code: bool = False) -> Result:
        """Read and check a result file.

        Args:
            path: `best.json`, or the run directory that holds it.
            trust_code: Whether code may run that it names and that never ran here.

        Raises:
            ConfigError: There is no such file.
            ResultError: It is truncated, no result, or of another schema version.
        """
        path = Path(path)
        if path.is_dir():
            path /= RESULT_FILE
        if not path.exists():
            raise ConfigError(f"{path}: no such result file; `autosplit search` writes one")
        data: Any = read_json(path, error=ResultError)
        found = data.get("schema_version") if isinstance(data, dict) else None
        if found != SCHEMA_VERSION:
            raise ResultError(f"{path}: schema version {found!r}, this autosplit reads version {SCHEMA_VERSION}; "
                              "replay it with the autosplit that wrote it")
        try:
            result = cls.model_validate(data)
        except ValidationError as e:
            raise ResultError(f"{path}: {first_error(e)}") from e
        named_in_file(data, path, trust_code=trust_code)
        result._place.path = path
        return result

    @property
    def path(self) -> Path:
        """The file that the result was read from or written to.

        Raises:
            ConfigError: It is in no file.
        """
        if self._place.path is None:
            raise ConfigError("this result is in no file, so its weights cannot be found; read it with "
                              "Result.load(path), or save it beside its weights first")
        return self._place.path


def json_schema() -> dict[str, Any]:
    """JSON Schema of the result file; published as `docs/result.schema.json`."""
    return Result.model_json_schema(mode="serialization")


_LIBRARIES = ("torch", "torchvision", "torch-pruning", "stable-baselines3", "sb3-contrib", "gymnasium", "numpy",
              "scikit-learn", "constriction", "optuna", "pillow")


def provenance(**figures: Any) -> Provenance:
    """Provenance with the versions and the machine filled in."""
    import torch

    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # installed under another name, or a build of the user's own
            versions[name] = "unknown"
    return Provenance(
        autosplit=__version__, versions=versions, python=sys.version.split()[0],
        machine=f"{platform.system()} {platform.machine()}", cpu_capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(), processor=processor_name(), source=source_hash(), **figures,
    )
