"""The examples run; `examples/latency_plugin.py` has its tests in tests/latency/test_example_plugin.py."""

from pathlib import Path

import pytest
import torch

from autosplit.agents import load_agent
from autosplit.core.plugins import load_object
from autosplit.data import load_dataset
from autosplit.models.loading import build_backbone
from autosplit.models.splitting import block_ends, cut, find_split_points
from autosplit.models.tracing import trace
from autosplit.testing import AgentCase, AgentContract, CodecContract

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(("classes", "channels", "side"), [(10, 3, 32), (4, 1, 28)])
def test_backbone_splits_at_the_ends_of_its_blocks(classes, channels, side):
    torch.manual_seed(0)
    model = build_backbone(f"{EXAMPLES / 'backbone.py'}:small_cnn", classes, channels)
    graph = trace(model.eval(), (channels, side, side))
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


class TestCodec(CodecContract):
    @pytest.fixture
    def name(self):
        return f"{EXAMPLES / 'codec.py'}:PixelCodec"

    def test_a_full_width_started_from_components_loses_next_to_nothing(self, name):
        """Before any training: all channels, at 8 bits."""
        codec, feature = self._full(name)
        restored = codec(feature, codec.widest)
        assert (restored - feature).square().mean() < 0.003 * feature.var()
        narrow = codec(feature, codec.settings()[0])
        assert (narrow - feature).square().mean() > 0.05 * feature.var()

    def _full(self, name):
        from autosplit.compression import build_codec
        from autosplit.compression.codecs.base import Offer

        torch.manual_seed(0)
        feature = torch.randn(32, 6, 7, 7)
        codec = build_codec(name, (6, 7, 7), Offer(widths=(2, 6), bits=(8,)), nonnegative=False)
        codec.fit(feature)
        return codec.train(), feature


class TestAgent(AgentContract):
    @pytest.fixture
    def build(self):
        return load_agent(f"{EXAMPLES / 'agent.py'}:SplitCorrector")

    def test_it_learns_which_split_points_disappoint(self, build):
        """The best plan, sooner than in half of the measurements that trying everything takes."""
        case = AgentCase.usual()
        agent = build(case.problem)
        plans = case.search(agent)
        assert agent.best is not None
        assert plans.index(agent.best.plan) < len(plans) / 2


def test_photos_are_a_data_set(tmp_path):
    draw = load_object(f"{EXAMPLES / 'data.py'}:draw_photos")
    draw(tmp_path / "photos", each=20)
    data = load_dataset("image-folder:photos", root=tmp_path)
    assert data.class_names == ("circle", "cross", "square")
    assert data.shape == (3, 32, 32)
    draw(tmp_path / "again", each=20)
    assert load_dataset("image-folder:again", root=tmp_path).fingerprint == data.fingerprint
