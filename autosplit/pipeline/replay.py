"""Replaying a result: rebuild the deployment, decode real payloads, hold every figure against the recorded one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autosplit.core.errors import ReplayMismatchError
from autosplit.core.plan import LatencySummary
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.result import Result
from autosplit.data.recorded import recorded_data
from autosplit.latency import load_latency_model
from autosplit.runtime.deployment import Deployment, Evaluation

__all__ = ["Replay", "replay"]


@dataclass(frozen=True)
class Replay:
    """A replayed result.

    Attributes:
        result: As recorded.
        evaluation: Of the rebuilt deployment on the test set.
        recorded: Recorded latency on the test set's payloads.
        latency: The same, computed again.
        exact: Whether accuracy and every payload byte are equal.
    """

    result: Result
    evaluation: Evaluation
    recorded: LatencySummary
    latency: LatencySummary

    @property
    def exact(self) -> bool:
        """Whether the same images are right and every payload is equal to the byte."""
        test = self.result.test
        return self.evaluation.correct == test.correct and self.evaluation.payload_sha256 == test.payload_sha256

    def check(self) -> None:
        """Raise if a figure is off by more than the tolerance that the result file states.

        Raises:
            ReplayMismatchError: Names each figure, recorded and replayed.
        """
        test, limits, now = self.result.test, self.result.tolerance, self.evaluation
        total = int(now.payload_sizes.sum())
        wrong = []
        if abs(now.accuracy - test.accuracy) * 100 > limits.accuracy_points + 1e-9:
            wrong.append(f"test accuracy {now.accuracy:.2%} (recorded {test.accuracy:.2%})")
        if abs(total - test.payload_bytes_total) > limits.payload_percent / 100 * test.payload_bytes_total:
            wrong.append(f"payload {total} bytes (recorded {test.payload_bytes_total})")
        if abs(self.latency.p50_ms - self.recorded.p50_ms) > limits.latency_percent / 100 * self.recorded.p50_ms:
            wrong.append(f"median latency {self.latency.p50_ms:.2f} ms (recorded {self.recorded.p50_ms:.2f} ms)")
        if now.images != test.images:
            wrong.append(f"{now.images} test images (recorded {test.images})")
        if wrong:
            raise ReplayMismatchError("replay differs from the record: " + "; ".join(wrong))


def replay(
    path: str | Path, progress: PhaseReporter | None = None, data_root: Path | None = None, *, trust_code: bool = False
) -> Replay:
    """Replay a result file.

    Args:
        path: `best.json`, its weights beside it; or a run directory.
        progress: Shows the phases.
        data_root: Where data sets lie.
        trust_code: Whether code may run that the result names and that never ran here.

    Raises:
        ResultError: The file, its weights or its data are not what they were.
    """
    progress = progress or NullProgress()
    result = Result.load(path, trust_code=trust_code)
    scenario = result.scenario
    with progress.phase("rebuild the deployment"):
        deployment = Deployment.from_result(result)
    with progress.phase("load data"):
        data = recorded_data(result, path, data_root)
    with progress.phase("decode the test set's payloads"):
        evaluation = deployment.evaluate(data, "test")
    workload = deployment.workload(evaluation.payload_mean, evaluation.payload_p95)
    latency = load_latency_model(scenario.latency_model).latency([workload], [scenario.conditions]).summary(0)
    recorded = next(row.latency for row in result.comparison if row.chosen)
    return Replay(result, evaluation, recorded, latency)
