"""A codec's own training: each phase moves what it says, and head and tail stay as they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autosplit.training.codecs as module
from autosplit.compression import build_codec
from autosplit.compression.codecs.base import Offer, Phase
from autosplit.core.plan import CodecSetting
from autosplit.core.scenario import TrainingSettings
from autosplit.models.splitting import find_split_points, select_split_points
from autosplit.models.tracing import trace
from autosplit.training.codecs import frozen_features, pretrain_codec, pretrain_codecs, pretraining_steps
from autosplit.training.loop import distillation_loss
from autosplit.training.supernet import Supernet
from tests.tiny import SPACE, randomise_norms, tiny_dataset, tiny_network

SHAPE = (8, 6, 6)
NEEDED = [5, 2]


def features(n=192):
    """The channels that the tail does not look at vary most."""
    generator = torch.Generator().manual_seed(1)
    level = torch.randn(n, 8, 1, 1, generator=generator)
    x = (level + 0.5 * torch.randn(n, *SHAPE, generator=generator)).relu()
    scale = torch.full((8, 1, 1), 4.0)
    scale[NEEDED] = 1.0
    return x * scale


def make_tail():
    """Feature -> three logits that depend on two of the channels alone; with statistics that must not move."""
    tail = nn.Sequential(nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    with torch.no_grad():
        tail[0].running_var.fill_(2.0)
        tail[3].weight.zero_()
        tail[3].weight[:, NEEDED] = torch.tensor([[6.0, -3.0], [-6.0, -3.0], [0.0, 6.0]])
    return tail.train()


def codec_of(family, widths=(1, 2, 4)):
    torch.manual_seed(0)
    codec = build_codec(family, SHAPE, Offer(widths, (2, 8)), True)
    codec.fit(features())
    return codec


def settings_of(steps):
    return TrainingSettings(codec_steps=steps, batch_size=32)


def state_of(network):
    return {n: t.clone() for n, t in network.state_dict().items()}


def changed(network, before):
    return {n for n, t in network.state_dict().items() if not torch.equal(t, before[n])}


def labels_of(tail, feature):
    with torch.no_grad():
        return tail.eval()(feature).argmax(1)


def pretrain(codec, tail, steps=100, seed=0, **options):
    feature = features()
    labels = labels_of(tail, feature)
    tail.train()
    pretrain_codec(codec, tail, feature, labels, settings_of(steps), seed, **options)


def only(codec, number):
    """The codec with one of its phases alone."""
    chosen = codec.phases()[number]
    codec.phases = lambda: (chosen,)
    return codec


def prefixes(names):
    return {n.split(".")[0] for n in names}


class TestAttention:
    def test_finds_the_channels_that_the_tail_depends_on(self):
        codec = codec_of("aecnn")
        assert not set(codec.order[:2].tolist()) & set(NEEDED)  # variance alone would take others
        pretrain(codec, make_tail(), 200)
        assert sorted(codec.order[:2].tolist()) == sorted(NEEDED)
        setting = CodecSetting(kind="code", family="aecnn", width=2, grid=6, bits=8)
        assert sorted(codec.parts(setting).encoder.channels.tolist()) == sorted(NEEDED)

    def test_also_in_few_steps(self):
        """The ranking is by attention, however many steps there were to forget the variance in."""
        codec = codec_of("aecnn")
        with torch.no_grad():
            codec.attention.excite.bias[NEEDED] = 4.0
        pretrain(codec, make_tail(), 10)
        assert sorted(codec.order[:2].tolist()) == sorted(NEEDED)

    def test_moves_attention_and_importance_alone(self):
        codec, tail = only(codec_of("aecnn"), 0), make_tail()
        before = state_of(codec)
        pretrain(codec, tail)
        names = changed(codec, before)
        assert prefixes(names) == {"attention", "importance", "order"}
        assert {n for n in names if n.startswith("attention")} == {
            n for n in before if n.startswith("attention")}

    def test_decoder_phase_moves_decoders_alone(self):
        codec = only(codec_of("aecnn"), 1)
        before = state_of(codec)
        pretrain(codec, make_tail())
        assert prefixes(changed(codec, before)) == {"decoders"}

    def test_decoders_restore_better_afterwards(self):
        codec, feature = only(codec_of("aecnn"), 1), features()

        def error():
            codec.train()
            with torch.no_grad():
                return [float((codec(feature, s) - feature).square().mean()) for s in codec.settings()]

        before = error()
        pretrain(codec, make_tail(), 150)
        ratios = [after / first for first, after in zip(before, error(), strict=True)]
        assert max(ratios) < 0.99, ratios


@pytest.mark.parametrize("family", ["bottlenet++", "bottlenet++:awgn=0.1"])
def test_bottlenecks_learn_to_keep_the_answer(family):
    codec, tail, feature = codec_of(family, (2, 4)), make_tail(), features()
    before, labels = state_of(codec), labels_of(tail, feature)

    def distance(setting):
        torch.manual_seed(0)
        with torch.no_grad():
            answers = tail.eval()(feature)
            return float(distillation_loss(tail(codec.train()(feature, setting)), labels, answers))

    first = distance(codec.widest)
    torch.manual_seed(0)
    pretrain(codec, tail)
    assert distance(codec.widest) < 0.75 * first
    assert prefixes(changed(codec, before)) == {"encoders", "decoders"}
    untouched = {n for n in before if n.endswith("weight")} - changed(codec, before)
    assert not untouched, "some settings never had their turn"


@pytest.mark.parametrize("family", ["aecnn", "bottlenet++"])
class TestFrozen:
    def test_the_tail_stays_as_it_is(self, family):
        tail = make_tail()
        tail[3].bias.requires_grad_(False)  # as it was, not as all others are
        tail[0].eval()
        before = state_of(tail)
        pretrain(codec_of(family), tail, 20)
        assert not changed(tail, before)
        assert [n for n, p in tail.named_parameters() if not p.requires_grad] == ["3.bias"]
        assert all(p.grad is None for p in tail.parameters())
        assert tail.training

    def test_features_stay_as_they_are(self, family):
        tail, feature = make_tail(), features()
        kept = feature.clone()
        pretrain_codec(codec_of(family), tail, feature, labels_of(tail, feature), settings_of(10), 0)
        assert torch.equal(feature, kept)

    def test_equal_seeds_give_equal_weights(self, family):
        codecs = [codec_of(family) for _ in range(3)]
        for codec, seed in zip(codecs, (3, 3, 4), strict=True):
            torch.manual_seed(seed)
            pretrain(codec, make_tail(), 10, seed=seed)
        assert not changed(codecs[1], state_of(codecs[0]))
        assert changed(codecs[2], state_of(codecs[0]))

    def test_steps_are_told(self, family):
        for steps in (1, 10, 23):
            codec, seen = codec_of(family), []
            pretrain(codec, make_tail(), steps, on_step=lambda seen=seen: seen.append(1))
            shares = [max(1, round(p.share * steps)) for p in codec.phases()]
            assert len(seen) == sum(shares)


class TestPhases:
    """What a plugin's phases can count on."""

    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
            self.log, self.offered = [], codec_of("jalad").settings()

        def settings(self):
            return self.offered

        def phases(self):
            return (
                Phase("first", 0.5, [self.one], self._restore("first"), "feature", lambda: self.log.append("finished")),
                Phase("second", 0.25, [self.two], self._restore("second"), "task",
                      penalty=lambda: self.log.append("penalty") or 1e3 * self.two),
            )

        def _restore(self, name):
            def restore(feature, setting):
                assert self.training
                self.log.append((name, setting))
                return feature * self.one * self.two

            return restore

    def test_order_settings_and_penalty(self):
        recorder = self.Recorder()
        pretrain(recorder, make_tail(), 40)
        names = [entry[0] if isinstance(entry, tuple) else entry for entry in recorder.log]
        assert names == ["first"] * 20 + ["finished"] + ["second", "penalty"] * 10
        assert {entry[1] for entry in recorder.log if isinstance(entry, tuple)} == set(recorder.offered)
        # the feature untouched is without error, and the penalty pulls at its own parameter
        assert recorder.one.item() == pytest.approx(1, abs=1e-3)
        assert recorder.two.item() < 0.999


# --- all codecs of a supernet -----------------------------------------------------------------------------------------


FAMILIES = ("nested", "aecnn", "bottlenet++", "jalad")


@pytest.fixture(scope="module")
def data():
    return tiny_dataset(96)


def supernet_of(data, families=FAMILIES):
    network = tiny_network()
    randomise_norms(network)
    graph = trace(network.eval(), data.shape)
    space = SPACE.model_copy(update={"splits": ("layer2", "layer3")})
    points = select_split_points(find_split_points(graph, data.shape), space.splits)
    torch.manual_seed(0)
    return Supernet(graph, points, space, data.normalise(data.train.images[:16]), families)


class TestSupernet:
    def test_the_backbone_stays_as_it_is(self, data):
        supernet = supernet_of(data).train()
        backbone, before = state_of(supernet.backbone), state_of(supernet.codecs)
        steps = []
        pretrain_codecs(supernet, data, settings_of(10), 0, lambda: steps.append(1))
        assert len(steps) == pretraining_steps(supernet, settings_of(10)) == 2 * (10 + 10)
        assert not changed(supernet.backbone, backbone)
        assert all(p.requires_grad for p in supernet.backbone.parameters())
        assert all(p.grad is None for p in supernet.backbone.parameters())
        assert all(m.training for m in supernet.backbone.modules())
        trained = {n.split(".")[0] for n in changed(supernet.codecs, before)}
        assert trained == {f"{s}|{f}" for s in ("layer2", "layer3") for f in ("aecnn", "bottlenet++")}

    def test_families_without_phases_take_no_steps(self, data):
        supernet = supernet_of(data, ("nested", "jalad"))
        assert pretraining_steps(supernet, settings_of(10)) == 0
        before = state_of(supernet)
        pretrain_codecs(supernet, data, settings_of(10), 0)
        assert not changed(supernet, before)


class TestFrozenFeatures:
    def test_are_those_of_the_first_training_images(self, data):
        supernet = supernet_of(data)
        head = supernet.head("layer2").train()
        feature, labels = frozen_features(head, data, (8, 8, 8))
        assert len(feature) == 96
        assert torch.equal(labels, data.train.labels)
        assert head.training
        assert not feature.is_inference()
        assert not feature.requires_grad
        with torch.no_grad():
            torch.testing.assert_close(feature, head.eval()(data.normalise(data.train.images)))

    @pytest.mark.parametrize(("images", "nbytes", "expected"), [(50, 1e9, 50), (2048, 4 * 512 * 30, 30), (2048, 1, 2)])
    def test_are_as_many_as_fit(self, data, monkeypatch, images, nbytes, expected):
        monkeypatch.setattr(module, "_MOST_IMAGES", images)
        monkeypatch.setattr(module, "_MOST_BYTES", nbytes)
        feature, labels = frozen_features(supernet_of(data).head("layer2"), data, (8, 8, 8))
        assert len(feature) == len(labels) == expected
