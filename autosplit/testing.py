"""Contract tests for authors of plugins: subclass one, give one fixture, run pytest.

Example:
    A test file of a latency plugin::

        from autosplit.testing import LatencyModelContract

        class TestMine(LatencyModelContract):
            @pytest.fixture
            def model(self):
                return MyLatencyModel()

    A test file of a codec::

        from autosplit.testing import CodecContract

        class TestMine(CodecContract):
            @pytest.fixture
            def name(self):
                return "my_package.codecs:MyCodec"
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from autosplit.backbones.splitting import trace
from autosplit.compression import build_codec, load_codec
from autosplit.compression.codecs.base import Codec, CodecParts, Offer
from autosplit.compression.entropy import FrequencyTables, PayloadCoder
from autosplit.compression.network import SplitNetwork, recalibrate
from autosplit.compression.quantise import dequantise, quantise
from autosplit.errors import ConfigError
from autosplit.evaluation.cost import stage_cost
from autosplit.latency import CheckedLatencyModel, LatencyBreakdown, LatencyModel
from autosplit.latency.profiles import ChannelProfile, DeviceProfile, load_profile
from autosplit.plan import INPUT, OUTPUT, CodecSetting, Plan, StageCost, Workload
from autosplit.scenario import Conditions

try:
    import pytest
except ModuleNotFoundError as e:
    raise ModuleNotFoundError("autosplit.testing needs pytest: pip install 'autosplit[test]'") from e

__all__ = ["CodecCase", "CodecContract", "LatencyModelContract", "make_conditions", "make_plan", "make_workload"]


def make_plan(split: str = "layer1", sparsity: float = 0.0) -> Plan:
    """A valid plan for a split point: PNG at `input`, nothing at `output`, a small code elsewhere.

    Args:
        split: Split point.
        sparsity: Share of channels removed from the head.
    """
    codecs = {INPUT: CodecSetting(kind="png"), OUTPUT: CodecSetting(kind="none")}
    code = CodecSetting(kind="code", width=4, grid=4, bits=4)
    return Plan(split=split, sparsity=sparsity, codec=codecs.get(split, code))


def make_workload(split: str = "layer1", payload_bytes: float = 100.0, device_macs: float = 2e6,
                  spread: float = 1.2) -> Workload:
    """A plausible workload of a small network.

    Args:
        split: Split point; at `output` nothing is sent, whatever `payload_bytes`.
        payload_bytes: Mean payload; 0 sends nothing, and the edge has no work.
        device_macs: Multiply-accumulates of the head.
        spread: 95th percentile of the payload over its mean.
    """
    if split == OUTPUT:
        payload_bytes = 0.0
    sends = payload_bytes > 0
    return Workload(
        plan=make_plan(split),
        device=StageCost(conv_macs=device_macs, depthwise_macs=device_macs / 10, weight_elements=5e3,
                         activation_elements=2e4, operators=6),
        encode=StageCost(conv_macs=1e4, coded_symbols=64, operators=1) if sends else StageCost(),
        edge=StageCost(conv_macs=8e6, linear_macs=640, weight_elements=7e4, activation_elements=5e4, operators=10)
        if sends else StageCost(),
        payload_bytes_mean=payload_bytes,
        payload_bytes_p95=payload_bytes * spread,
        result_bytes=4.0 if sends else 0.0,
    )


def make_conditions(channel: str = "ble-1m", budget_ms: float = 100.0, device: str = "stm32l4r5",
                    edge: str = "edge-cpu") -> Conditions:
    """Conditions from packaged profiles.

    Args:
        channel: Name of a channel profile, or the path of a `.yaml` file.
        budget_ms: Deadline, milliseconds.
        device: Name or path of the device's profile.
        edge: Name or path of the server's profile.
    """
    return Conditions(device=load_profile(DeviceProfile, device), edge=load_profile(DeviceProfile, edge),
                      channel=load_profile(ChannelProfile, channel), budget_ms=budget_ms)


class LatencyModelContract:
    """What every `autosplit.latency.LatencyModel` promises; a subclass gives the fixture `model`.

    Attributes:
        splits: Split points that the model knows; override it for a model that knows only a certain network.
            `output`, where nothing is sent, is used where it is among them.
        sent_splits: The same without `output`.
    """

    splits: tuple[str, ...] = (INPUT, "stem", "layer1", "layer2", "layer3", OUTPUT)

    @property
    def sent_splits(self) -> tuple[str, ...]:
        """Split points at which something crosses the channel."""
        return tuple(s for s in self.splits if s != OUTPUT)

    @pytest.fixture
    def model(self) -> LatencyModel:
        """The model under test, newly built."""
        raise NotImplementedError("give the fixture `model`, which returns the latency model under test")

    @pytest.fixture
    def checked(self, model: LatencyModel) -> CheckedLatencyModel:
        """The model with every answer validated: type, shape, finite, not negative, p50 <= p95, in_time in [0, 1]."""
        return CheckedLatencyModel(model, type(model).__name__)

    def workloads(self, count: int) -> list[Workload]:
        """`count` different workloads over the split points."""
        return [make_workload(self.splits[i % len(self.splits)], 30.0 + 70.0 * i, 1e6 * (1 + i))
                for i in range(count)]

    def conditions(self, count: int) -> list[Conditions]:
        """`count` different conditions over channels and budgets."""
        channels = ("ble-1m", "sub-ghz-fsk-50k", "lte", "lora-sf7")
        return [make_conditions(channels[i % len(channels)], 40.0 + 60.0 * i) for i in range(count)]

    @pytest.mark.parametrize(("plans", "count"), [(1, 1), (1, 4), (5, 1), (7, 3)])
    def test_answers_are_valid_and_have_the_shape_of_the_question(
        self, checked: CheckedLatencyModel, plans: int, count: int
    ) -> None:
        """A row for each plan, a column for each of the conditions, and nothing impossible in them."""
        answer = checked.latency(self.workloads(plans), self.conditions(count))
        assert answer.p50_ms.shape == (plans, count)

    def test_equal_questions_get_equal_answers(self, checked: CheckedLatencyModel) -> None:
        """No state and no chance: also after other questions, the answer is the same to the last bit."""
        first = checked.latency(self.workloads(6), self.conditions(3))
        checked.latency(self.workloads(2), self.conditions(1))
        _assert_equal(first, checked.latency(self.workloads(6), self.conditions(3)), tolerance=0.0)

    def test_together_and_one_by_one_agree(self, checked: CheckedLatencyModel) -> None:
        """A plan's latency depends neither on the plans nor on the conditions asked for beside it."""
        workloads, conditions = self.workloads(6), self.conditions(3)
        together = checked.latency(workloads, conditions)
        for p, workload in enumerate(workloads):
            for c, condition in enumerate(conditions):
                alone = checked.latency([workload], [condition])
                _assert_equal(_cell(together, p, c), alone, tolerance=1e-9)

    def test_more_payload_is_never_faster(self, checked: CheckedLatencyModel) -> None:
        """Uplink and end-to-end latency do not fall, and the chance to be in time does not rise, with the bytes."""
        sizes = (1, 20, 100, 221, 223, 500, 2000, 5000)
        for split in self.sent_splits:
            answer = checked.latency([make_workload(split, b) for b in sizes], self.conditions(4))
            for name in ("uplink_ms", "p50_ms", "p95_ms"):
                _assert_never_falls(getattr(answer, name), f"{name} at {split} for payloads of {sizes} bytes")
            _assert_never_falls(-answer.in_time, f"1 - in_time at {split} for payloads of {sizes} bytes")

    def test_a_larger_budget_is_never_harder_to_meet(self, checked: CheckedLatencyModel) -> None:
        """`in_time` does not fall as the budget grows, and the budget moves no latency."""
        conditions = [make_conditions(budget_ms=b) for b in (0.1, 10, 30, 100, 300, 1e6)]
        answer = checked.latency(self.workloads(6), conditions)
        _assert_never_falls(answer.in_time.T, "in_time with the budget")
        assert (answer.p50_ms == answer.p50_ms[:, :1]).all(), "p50_ms depends on the budget"
        assert (answer.in_time[:, -1] == 1).all(), "in_time is below 1 for a budget of 1,000 s"

    def test_nothing_sent_takes_no_time_on_the_link(self, checked: CheckedLatencyModel) -> None:
        """Without payload there is no uplink, no downlink and no edge."""
        if OUTPUT not in self.splits:
            pytest.skip("the model knows no plan that sends nothing: 'output' is not among its splits")
        answer = checked.latency([make_workload(OUTPUT)], self.conditions(4))
        assert not answer.uplink_ms.any()
        assert not answer.downlink_ms.any()
        assert not answer.edge_ms.any()

    def test_arguments_are_left_alone(self, checked: CheckedLatencyModel) -> None:
        """The caller's lists and what is in them are as before."""
        workloads, conditions = self.workloads(4), self.conditions(2)
        before = [x.model_dump() for x in (*workloads, *conditions)]
        checked.latency(workloads, conditions)
        assert len(workloads) == 4
        assert len(conditions) == 2
        assert [x.model_dump() for x in (*workloads, *conditions)] == before


def _cell(answer: LatencyBreakdown, plan: int, condition: int) -> LatencyBreakdown:
    """One plan under one set of conditions, as a breakdown of shape (1, 1)."""
    return LatencyBreakdown(**{f.name: getattr(answer, f.name)[plan:plan + 1, condition:condition + 1]
                               for f in fields(LatencyBreakdown)})


def _assert_equal(left: LatencyBreakdown, right: LatencyBreakdown, tolerance: float) -> None:
    for f in fields(LatencyBreakdown):
        np.testing.assert_allclose(getattr(left, f.name), getattr(right, f.name), rtol=tolerance, atol=tolerance,
                                   err_msg=f.name)


def _assert_never_falls(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], what: str) -> None:
    """Along the first axis."""
    steps: Sequence[float] = np.diff(values, axis=0).min(axis=0, initial=0.0).tolist()
    assert min(steps) >= -1e-9, f"{what}: falls by {-min(steps):g}"


# --- codecs -----------------------------------------------------------------------------------------------------------

_FEATURES = 12
_UNKNOWN_BITS = 7


class CodecCase(NamedTuple):
    """A codec and what it is tried on.

    Attributes:
        codec: In training mode, started from `feature`, none of its weights at its initial value.
        feature: (12, C, H, W).
    """

    codec: Codec
    feature: Tensor


class CodecContract:
    """What every `autosplit.compression.codecs.base.Codec` promises; a subclass gives the fixture `name`.

    A codec that draws noise in training is held to the same: it draws from torch's global generator alone, and the
    same numbers in `forward` as its parts do.

    Attributes:
        shapes: Shapes (C, H, W) of the features it is tried on; override it for a codec that takes only some.
        offer: Settings that it is offered; 7 bits are not among them.
    """

    shapes: tuple[tuple[int, int, int], ...] = ((6, 7, 7), (4, 5, 9), (3, 1, 1))
    offer: Offer = Offer(widths=(2, 5), bits=(1, 4))

    @pytest.fixture
    def name(self) -> str:
        """The codec under test, as a scenario names it."""
        raise NotImplementedError("give the fixture `name`, which returns the name of the codec under test")

    def cases(self, name: str) -> Iterator[CodecCase]:
        """The codec for each shape: features out of a ReLU and signed ones in turn, small and large values."""
        for i, shape in enumerate(self.shapes):
            nonnegative = i % 2 == 0
            generator = torch.Generator().manual_seed(i)
            feature = torch.randn(_FEATURES, *shape, generator=generator)
            yield self._case(name, (feature.relu() * 0.2) if nonnegative else feature * 3, nonnegative)

    def _case(self, name: str, feature: Tensor, nonnegative: bool) -> CodecCase:
        torch.manual_seed(0)
        channels, height, width = feature.shape[1:]
        codec = build_codec(name, (channels, height, width), self.offer, nonnegative)
        codec.fit(feature)
        with torch.no_grad():
            for parameter in codec.parameters():
                if parameter.requires_grad:
                    parameter.mul_(0.9 + 0.2 * torch.rand_like(parameter)).add_(0.02 * torch.randn_like(parameter))
        return CodecCase(codec.train(), feature)

    # --- settings

    def test_settings_are_what_was_offered(self, name: str) -> None:
        """At least one setting, none twice, of this codec's name, within its own lists, with bits that were offered."""
        for codec, _ in self.cases(name):
            settings = codec.settings()
            assert settings
            assert len(set(settings)) == len(settings), "a setting is there twice"
            assert set(codec.bits) <= set(self.offer.bits)
            for s in settings:
                assert (s.kind, s.family) == ("code", name), f"{s} is no code of the family {name!r}"
                assert s.width in codec.widths, s.label
                assert s.grid in codec.grids, s.label
                assert s.bits in codec.bits, s.label

    def test_the_widest_is_one_of_them(self, name: str) -> None:
        """With the most bits and no setting on its grid wider than it."""
        for codec, _ in self.cases(name):
            widest = codec.widest
            assert widest in codec.settings(), widest.label
            assert widest.bits == max(s.bits or 0 for s in codec.settings())
            assert widest.width == max(s.width or 0 for s in codec.settings() if s.grid == widest.grid)

    def test_other_settings_are_refused(self, name: str) -> None:
        """A `ConfigError` from `code_shape` and `parts`, also where width, grid and bits are on offer, but not so."""
        for codec, _ in self.cases(name):
            known = codec.settings()
            others = {s.model_copy(update=u) for s in known for u in (
                {"bits": _UNKNOWN_BITS}, {"width": 999}, {"grid": 999}, *({"width": w} for w in codec.widths),
                *({"grid": g} for g in codec.grids))}
            for setting in others - set(known):
                with pytest.raises(ConfigError):
                    codec.code_shape(setting)
                with pytest.raises(ConfigError):
                    codec.parts(setting)

    # --- what goes in and comes out

    def test_code_and_feature_have_their_shapes(self, name: str) -> None:
        """The encoder gives `code_shape`, the decoder the feature's shape, both float32 without a NaN."""
        for codec, feature in self.cases(name):
            before = feature.clone()
            for setting in codec.settings():
                encoder, quantiser, decoder = codec.parts(setting)
                code = encoder(feature)
                restored = decoder(quantiser(code))
                assert tuple(code.shape[1:]) == codec.code_shape(setting), _about(codec, setting)
                assert codec.code_shape(setting) == (setting.width, *codec.grids[setting.grid or 0])
                for tensor, batch in ((code, feature), (restored, feature), (codec(feature, setting), feature)):
                    assert len(tensor) == len(batch), _about(codec, setting)
                    assert tensor.dtype == torch.float32, _about(codec, setting)
                    assert tensor.isfinite().all(), _about(codec, setting)
                assert restored.shape == feature.shape == codec(feature, setting).shape, _about(codec, setting)
            assert torch.equal(feature, before), "the feature was changed"

    def test_a_quantised_value_is_one_of_its_levels(self, name: str) -> None:
        """At most `2**bits` different values a channel, and what the setting's bits can tell apart is used."""
        for codec, feature in self.cases(name):
            for setting in codec.settings():
                network = _network(codec.parts(setting), feature)
                symbols = network.symbols(feature)
                assert network.quantiser is not None
                values = network.quantiser(_encoded(network, feature))
                most = 2 ** (setting.bits or 0)
                assert network.quantiser.bits == setting.bits, _about(codec, setting)
                assert 0 <= int(symbols.min()) <= int(symbols.max()) < most, _about(codec, setting)
                for k in range(values.shape[1]):
                    assert len(values[:, k].unique()) <= most, _about(codec, setting)
                # by and large: a value in a hundred may be a stray one
                common = torch.bincount(symbols.flatten()) > symbols.numel() / 100
                assert int(common.sum()) > 1, f"{_about(codec, setting)}: all features have the same code"

    def test_features_out_of_a_relu_stay_nonnegative(self, name: str) -> None:
        """What the tail gets then has no negative value."""
        for codec, feature in self.cases(name):
            if codec.nonnegative:
                for setting in codec.settings():
                    assert codec(feature, setting).min() >= 0, _about(codec, setting)

    # --- shared weights and copies of them

    def test_forward_is_encoder_quantiser_decoder(self, name: str) -> None:
        """In training mode, with the statistics of the same batch, at every setting."""
        for codec, feature in self.cases(name):
            for setting in codec.settings():
                parts = _in_training(codec.parts(setting))
                torch.manual_seed(1)
                expected = _through(parts, feature)
                torch.manual_seed(1)
                _assert_close(codec(feature, setting), expected, _about(codec, setting))

    def test_settings_do_not_disturb_one_another(self, name: str) -> None:
        """The same answer before and after other settings had their turn."""
        for codec, feature in self.cases(name):
            first, *others = codec.settings()
            answers = []
            for settings in ((first,), (*others, first)):
                for setting in settings:
                    torch.manual_seed(1)
                    answer = codec(feature, setting)
                answers.append(answer)
            assert torch.equal(*answers), codec.shape

    def test_parts_are_copies(self, name: str) -> None:
        """Overwriting parts leaves the codec and other parts alone, overwriting the codec leaves parts alone."""
        for codec, _ in self.cases(name):
            for setting in codec.settings():
                kept, spoilt = codec.parts(setting), codec.parts(setting)
                before, shared = _tensors(kept), {n: t.clone() for n, t in codec.state_dict().items()}
                _overwrite(*spoilt)
                _assert_same(codec.state_dict(), shared, _about(codec, setting))
                _assert_same(_tensors(kept), before, _about(codec, setting))
                _overwrite(codec)
                _assert_same(_tensors(kept), before, _about(codec, setting))
                codec.load_state_dict(shared)

    def test_structure_is_json_and_blank_has_it(self, name: str) -> None:
        """`blank(structure)`, after a way through JSON, takes the parts' weights and does the same."""
        for codec, feature in self.cases(name):
            for setting in codec.settings():
                network = _network(codec.parts(setting), feature)
                structure = json.loads(json.dumps(codec.structure(setting), allow_nan=False))
                blank = _split(load_codec(name).blank(structure))
                assert str(blank) == str(network), _about(codec, setting)
                blank.load_state_dict(network.state_dict())
                assert torch.equal(blank.eval()(feature), network(feature)), _about(codec, setting)

    def test_the_state_is_all_there_is(self, name: str) -> None:
        """A codec that was never shown a feature, and takes the state of one that was, is that one."""
        for codec, feature in self.cases(name):
            torch.manual_seed(5)
            other = build_codec(name, codec.shape, self.offer, codec.nonnegative)
            other.load_state_dict(codec.state_dict())
            for setting in codec.settings():
                answers = []
                for c in (codec, other.train()):
                    torch.manual_seed(1)
                    answers.append(c(feature, setting))
                assert torch.equal(*answers), _about(codec, setting)

    def test_equal_seeds_give_equal_codecs(self, name: str) -> None:
        """Building and starting take chance from torch's global generator alone."""
        for (one, _), (two, _) in zip(self.cases(name), self.cases(name), strict=True):
            _assert_same(one.state_dict(), two.state_dict(), one.shape)
            assert one.settings() == two.settings()

    # --- training

    def test_gradient_reaches_every_weight_of_a_setting(self, name: str) -> None:
        """Through the quantiser to all weights of the parts, and to the feature."""
        for codec, feature in self.cases(name):
            for setting in codec.settings():
                parts, x = _in_training(codec.parts(setting)), feature.clone().requires_grad_()
                _weighed(_through(parts, x)).backward()  # type: ignore[no-untyped-call]
                assert x.grad is not None
                assert x.grad.any(), f"{_about(codec, setting)}: no gradient to the feature"
                for part in parts:
                    unreached = _untouched(part)
                    assert not unreached, f"{_about(codec, setting)}: no gradient to {unreached}"

    def test_every_weight_is_trained_by_something(self, name: str) -> None:
        """Each of the codec's own weights has a gradient in `forward` or in a phase, at some setting."""
        for codec, feature in self.cases(name):
            untrained = {n for n, p in codec.named_parameters() if p.requires_grad}
            for restore in (codec.forward, *(phase.restore for phase in codec.phases())):
                for setting in codec.settings():
                    if untrained:
                        codec.zero_grad()
                        _weighed(restore(feature, setting)).backward()  # type: ignore[no-untyped-call]
                        untrained -= {n for n, p in codec.named_parameters() if p.grad is not None}
            assert not untrained, f"codec for {codec.shape}: nothing trains {sorted(untrained)}"

    def test_phases_train_weights_of_the_codec(self, name: str) -> None:
        """Each phase has weights of the codec, a share of the steps, and a gradient to all of them."""
        for codec, feature in self.cases(name):
            phases, own = codec.phases(), {id(p) for p in codec.parameters()}
            assert sum(phase.share for phase in phases) <= 1 + 1e-9
            for phase in phases:
                assert phase.share > 0, phase.name
                assert phase.parameters, f"phase {phase.name!r} trains nothing"
                assert {id(p) for p in phase.parameters} <= own, f"phase {phase.name!r} trains weights of others"
                reached: set[int] = set()  # a gradient may be zero: a ReLU behind it may be dead for these features
                for setting in codec.settings():
                    codec.zero_grad()
                    restored = phase.restore(feature, setting)
                    assert restored.shape == feature.shape, phase.name
                    penalty = phase.penalty() if phase.penalty else torch.zeros(())
                    (_weighed(restored) + penalty).backward()  # type: ignore[no-untyped-call]
                    reached |= {id(p) for p in phase.parameters if p.grad is not None}
                assert len(reached) == len(phase.parameters), f"phase {phase.name!r}: some weights have no gradient"
                phase.finish()
            copied = copy.deepcopy(codec)  # as a supernet may be at any time
            for setting in codec.settings():
                torch.manual_seed(1)
                expected = codec(feature, setting)
                torch.manual_seed(1)
                assert torch.equal(copied(feature, setting), expected), _about(codec, setting)

    # --- a deployment

    def test_integers_are_all_that_crosses(self, name: str) -> None:
        """The symbols go through bytes bit for bit, and the edge needs nothing but them."""
        for codec, feature in self.cases(name):
            for setting in codec.settings():
                network = _network(codec.parts(setting), feature)
                assert network.quantiser is not None
                bits, limit = network.quantiser.bits, network.quantiser.limit
                symbols = network.symbols(feature)
                coder = PayloadCoder(FrequencyTables.fit(symbols.numpy(), bits), codec.code_shape(setting), b"contract")
                arrived = torch.from_numpy(coder.decode_batch(coder.encode_batch(symbols.numpy())))
                assert torch.equal(arrived, symbols), _about(codec, setting)
                code = _encoded(network, feature)
                assert torch.equal(arrived, quantise(code, bits, limit)), _about(codec, setting)
                assert torch.equal(dequantise(arrived, bits, limit), network.quantiser(code)), _about(codec, setting)
                assert torch.equal(network.finish(arrived), network(feature)), _about(codec, setting)

    def test_a_deployed_code_does_not_depend_on_its_batch(self, name: str) -> None:
        """Alone and in company a feature has the same code and the same answer, but for rounding."""
        for codec, feature in self.cases(name):
            for setting in codec.settings():
                network = _network(codec.parts(setting), feature)
                alone = torch.cat([_encoded(network, feature[i : i + 1]) for i in range(len(feature))])
                _assert_close(alone, _encoded(network, feature), _about(codec, setting))
                symbols = network.symbols(feature)
                restored = torch.cat([network.finish(symbols[i : i + 1]) for i in range(len(symbols))])
                _assert_close(restored, network.finish(symbols), _about(codec, setting))

    def test_encoders_know_their_bits_only_if_the_codec_says_so(self, name: str) -> None:
        """Without `encoder_knows_bits`, encoders of settings that differ in bits alone are the same."""
        for codec, feature in self.cases(name):
            found: dict[tuple[int | None, int | None], Tensor] = {}
            for setting in codec.settings():
                if not codec.encoder_knows_bits:
                    code = _encoded(_network(codec.parts(setting), feature), feature)
                    first = found.setdefault((setting.width, setting.grid), code)
                    assert torch.equal(code, first), _about(codec, setting)

    def test_work_can_be_counted(self, name: str) -> None:
        """Encoder and decoder trace, do the same then, and cost the same in either mode and at all bits."""
        for codec, feature in self.cases(name):
            found: dict[tuple[object, ...], StageCost] = {}
            for setting in codec.settings():
                network, shape = _network(codec.parts(setting), feature), codec.code_shape(setting)
                code = _encoded(network, feature)
                stages: dict[str, tuple[Any, tuple[int, ...], Tensor]] = {
                    "encoder": (network.encoder, codec.shape, feature), "decoder": (network.decoder, shape, code)}
                for stage, (module, inputs, x) in stages.items():
                    about = f"{stage} of {_about(codec, setting)}"
                    assert torch.equal(trace(module)(x), module(x)), about
                    cost = stage_cost(module.eval(), inputs)
                    assert cost == stage_cost(module.train(), inputs), f"{about}: training and evaluation differ"
                    first = found.setdefault((stage, setting.width, setting.grid), cost)
                    assert cost == first, f"{about}: other bits cost {first}, these {cost}"
                    weights = sum(p.numel() for p in module.parameters() if p.dim() > 1)
                    assert cost.weight_elements >= weights, f"{about}: some weights were not counted"


def _about(codec: Codec, setting: CodecSetting) -> str:
    return f"{setting.label} for a feature of shape {codec.shape}"


def _in_training(parts: CodecParts) -> CodecParts:
    for part in parts:
        part.train()
    return parts


def _through(parts: CodecParts, feature: Tensor) -> Tensor:
    return parts.decoder(parts.quantiser(parts.encoder(feature)))  # type: ignore[no-any-return]


def _split(parts: CodecParts) -> SplitNetwork:
    return SplitNetwork(nn.Identity(), nn.Identity(), *parts)


def _network(parts: CodecParts, feature: Tensor) -> SplitNetwork:
    """The parts as a deployment has them: statistics of these features, evaluation mode, no gradients."""
    network = _split(parts).requires_grad_(requires_grad=False)
    recalibrate(network, feature)
    return network


def _encoded(network: SplitNetwork, feature: Tensor) -> Tensor:
    assert network.encoder is not None
    return network.encoder(feature)  # type: ignore[no-any-return]


def _weighed(x: Tensor) -> Tensor:
    """A sum that no normalisation makes constant."""
    return (x * torch.rand(x.shape, generator=torch.Generator().manual_seed(3))).sum()


def _untouched(module: nn.Module) -> list[str]:
    """Names of weights without a gradient."""
    return [n for n, p in module.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]


def _tensors(parts: CodecParts) -> dict[str, Tensor]:
    return {f"{i}.{n}": t.clone() for i, part in enumerate(parts) for n, t in part.state_dict().items()}


def _overwrite(*modules: nn.Module) -> None:
    with torch.no_grad():
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.fill_(3)


def _assert_close(found: Tensor, expected: Tensor, about: str) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, msg=lambda m: f"{about}: {m}")


def _assert_same(left: dict[str, Tensor], right: dict[str, Tensor], about: object) -> None:
    assert left.keys() == right.keys(), about
    changed = [n for n, t in left.items() if not torch.equal(t, right[n])]
    assert not changed, f"{about}: {changed} changed"
