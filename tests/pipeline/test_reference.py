"""The committed reference result is one that this version reads, rebuilds and runs; `replay` compares its figures."""

from __future__ import annotations

from pathlib import Path

import torch

from autosplit.core.result import Result
from autosplit.runtime.deployment import Deployment

BEST = Path(__file__).parents[2] / "results" / "best.json"


def test_the_reference_result_is_rebuilt_and_runs():
    result = Result.load(BEST)
    deployment = Deployment.from_result(result)
    assert result.feasible
    shape = deployment.blueprint.image_shape
    images = torch.randint(0, 256, (3, *shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    logits, payloads = deployment.run(images)
    assert logits.shape == (3, deployment.blueprint.num_classes)
    assert len(payloads) == 3
