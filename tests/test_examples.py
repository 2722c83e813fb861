"""The examples run; `examples/latency_plugin.py` has its tests in tests/latency/test_example_plugin.py."""

from pathlib import Path

import pytest
import torch

from autosplit.backbones.loading import build_backbone
from autosplit.backbones.splitting import block_ends, cut, find_split_points, trace
from autosplit.plugins import load_object

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(("classes", "channels", "side"), [(10, 3, 32), (4, 1, 28)])
def test_backbone_splits_at_the_ends_of_its_blocks(classes, channels, side):
    torch.manual_seed(0)
    model = build_backbone(f"{EXAMPLES / 'backbone.py'}:small_cnn", classes, channels)
    graph = trace(model.eval())
    points = block_ends(find_split_points(graph, (channels, side, side)))
    assert [p.name for p in points] == ["block1", "block2", "block3"]
    images = torch.randn(2, channels, side, side)
    with torch.inference_mode():
        whole = graph(images)
        assert whole.shape == (2, classes)
        for point in points:
            head, tail = cut(graph, point)
            assert torch.equal(tail(head(images)), whole)


def test_environment_plays_feasible_plans_and_repeats_itself(capsys):
    run = load_object(f"{EXAMPLES / 'environment.py'}:run")
    outcomes = run(episodes=8, seed=1)
    assert len(outcomes) == 8
    assert all(o.feasible for o in outcomes), "the mask leaves only plans within the budget"
    assert len({o.plan for o in outcomes}) > 1
    assert capsys.readouterr().out.count("in time") == 8
    assert run(episodes=8, seed=1) == outcomes
