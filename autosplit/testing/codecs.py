"""The contract of codecs.

Example:
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
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from autosplit.compression import build_codec, load_codec
from autosplit.compression.codecs.base import Codec, CodecParts, Offer
from autosplit.compression.network import SplitNetwork, recalibrate
from autosplit.compression.quantise import dequantise, quantise
from autosplit.core.errors import ConfigError
from autosplit.core.measurement import StageCost
from autosplit.core.plan import CodecSetting
from autosplit.models.costs import stage_cost
from autosplit.models.tracing import as_graph
from autosplit.runtime.standalone.payload.coder import PayloadCoder
from autosplit.runtime.standalone.payload.frequencies import FrequencyTables

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
    """What every `autosplit.compression.codecs.base.Codec` must do; a subclass gives the fixture `name`.

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
        """Through the quantiser, and what its symbols cost, to all weights of the parts, and to the feature."""
        for codec, feature in self.cases(name):
            for setting in codec.settings():
                parts, x = _in_training(codec.parts(setting)), feature.clone().requires_grad_()
                (_weighed(_through(parts, x)) + parts.quantiser.cost()).backward()  # type: ignore[no-untyped-call]
                assert x.grad is not None
                assert x.grad.any(), f"{_about(codec, setting)}: no gradient to the feature"
                for part in parts:
                    unreached = _untouched(part)
                    assert not unreached, f"{_about(codec, setting)}: no gradient to {unreached}"

    def test_every_weight_is_trained_by_something(self, name: str) -> None:
        """Each of the codec's own weights has a gradient in `forward` and `cost` or in a phase, at some setting."""
        for codec, feature in self.cases(name):
            untrained = {n for n, p in codec.named_parameters() if p.requires_grad}
            for restore in (codec.forward, *(phase.restore for phase in codec.phases())):
                for setting in codec.settings():
                    if untrained:
                        codec.zero_grad()
                        (_weighed(restore(feature, setting)) + codec.cost()).backward()  # type: ignore[no-untyped-call]
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
                bits, limit = network.quantiser.bits, network.quantiser.bound
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
                    assert torch.equal(as_graph(module)(x), module(x)), about
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
