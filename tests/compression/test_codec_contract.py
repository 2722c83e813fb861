"""Every codec family keeps the contract, a plugin's too; and codecs that break a rule of it are found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autosplit.compression import list_codecs
from autosplit.compression.codecs.base import CodecParts, Phase
from autosplit.compression.codecs.nested import NestedCodec
from autosplit.testing import CodecContract

pytestmark = pytest.mark.usefixtures("one_thread")

PLUGIN = '''
"""A codec as small as can be: one 1x1 convolution there, one back."""
import torch
from torch import nn
from torch.nn import functional as F

from autosplit.compression.codecs.base import Codec, CodecParts, Quantiser


class Pointwise(Codec):
    name = "pointwise"

    def __init__(self, shape, offer, nonnegative):
        super().__init__(shape, offer, nonnegative)
        self.there = nn.ModuleDict({str(w): self.blank(self._structure(w, 1)).encoder for w in self.widths})
        self.back = nn.ModuleDict({str(w): self.blank(self._structure(w, 1)).decoder for w in self.widths})
        self.quantisers = nn.ModuleDict({str(b): Quantiser(b) for b in self.bits})

    def forward(self, feature, setting):
        width = str(setting.width)
        return self.back[width](self.quantisers[str(setting.bits)](self.there[width](feature)))

    def parts(self, setting):
        found, width = self.blank(self.structure(setting)), str(setting.width)
        found.encoder.load_state_dict(self.there[width].state_dict())
        found.quantiser.load_state_dict(self.quantisers[str(setting.bits)].state_dict())
        found.decoder.load_state_dict(self.back[width].state_dict())
        return found

    def structure(self, setting):
        return self._structure(self.code_shape(setting)[0], setting.bits)

    def _structure(self, width, bits):
        return {"channels": self.shape[0], "width": width, "bits": bits, "nonnegative": self.nonnegative}

    @classmethod
    def blank(cls, structure):
        channels, width = structure["channels"], structure["width"]
        last = nn.ReLU() if structure["nonnegative"] else nn.Identity()
        return CodecParts(nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width, affine=False)),
                          Quantiser(structure["bits"]), nn.Sequential(nn.Conv2d(width, channels, 1), last))
'''


class TestNested(CodecContract):
    @pytest.fixture
    def name(self):
        return "nested"


class TestFactorised(CodecContract):
    @pytest.fixture
    def name(self):
        return "factorised"


class TestAecnn(CodecContract):
    @pytest.fixture
    def name(self):
        return "aecnn"


class TestBottleNet(CodecContract):
    @pytest.fixture
    def name(self):
        return "bottlenet++"


class TestBottleNetThroughNoise(CodecContract):
    @pytest.fixture
    def name(self):
        return "bottlenet++:awgn=0.1"


class TestBottleNetThroughErasures(CodecContract):
    @pytest.fixture
    def name(self):
        return "bottlenet++:erasure=0.01"


class TestJalad(CodecContract):
    @pytest.fixture
    def name(self):
        return "jalad"


class TestPlugin(CodecContract):
    @pytest.fixture
    def name(self, tmp_path):
        (tmp_path / "codec.py").write_text(PLUGIN)
        return f"{tmp_path / 'codec.py'}:Pointwise"


def test_no_family_is_without_a_contract():
    assert list_codecs() == ["aecnn", "bottlenet++", "factorised", "jalad", "nested"]


# --- each of these breaks one rule ---------------------------------------------------------------------------------


class Repeating(NestedCodec):
    def settings(self):
        return super().settings() * 2


class Foreign(NestedCodec):
    def settings(self):
        return tuple(s.model_copy(update={"family": "nested"}) for s in super().settings())


class Modest(NestedCodec):
    @property
    def widest(self):
        return self.settings()[0]


class Lenient(NestedCodec):
    def code_shape(self, setting):
        return (setting.width, *self.grids.get(setting.grid, (1, 1)))


class Turning(NestedCodec):
    def parts(self, setting):
        encoder, quantiser, decoder = super().parts(setting)
        return CodecParts(nn.Sequential(encoder, Transpose()), quantiser, nn.Sequential(Transpose(), decoder))


class Transpose(nn.Module):
    def forward(self, x):
        return x.transpose(2, 3)


class Silent(NestedCodec):
    def parts(self, setting):
        parts = super().parts(setting)
        nn.init.zeros_(parts.encoder.conv.weight)
        return parts


class Signed(NestedCodec):
    def __init__(self, shape, offer, nonnegative):
        super().__init__(shape, offer, False)
        self.nonnegative = nonnegative


class Apart(NestedCodec):
    def forward(self, feature, setting):
        return super().forward(feature, setting.model_copy(update={"bits": self.bits[-1]}))


class Remembering(NestedCodec):
    calls = 0

    def forward(self, feature, setting):
        self.calls += 1
        return super().forward(feature, setting) + 0.01 * self.calls


class Sharing(NestedCodec):
    def parts(self, setting):
        parts = super().parts(setting)
        parts.decoder.refine = self._level(setting)[1].refine
        return parts


class Unwritable(NestedCodec):
    def structure(self, setting):
        return {**super().structure(setting), "setting": setting}


class Incomplete(NestedCodec):
    def parts(self, setting):
        parts = super().parts(setting)
        parts.decoder.activation = nn.Softplus()
        return parts


class Hiding(NestedCodec):
    scale = 1.0

    def fit(self, features):
        self.scale = float(features.std())

    def forward(self, feature, setting):
        return super().forward(feature, setting) * self.scale


class Chancy(NestedCodec):
    def fit(self, features):
        generator = torch.Generator()
        generator.seed()
        self.quantisers["1"].limit.data.add_(torch.rand((), generator=generator))


class Blocking(NestedCodec):
    def parts(self, setting):
        encoder, quantiser, decoder = super().parts(setting)
        return CodecParts(nn.Sequential(encoder, Detach()), quantiser, decoder)


class Detach(nn.Module):
    def forward(self, x):
        return x.detach()


class Idle(NestedCodec):
    def __init__(self, *args):
        super().__init__(*args)
        self.spare = nn.Linear(2, 2)


class Meddling(NestedCodec):
    def phases(self):
        return (Phase("meddling", 1.0, [nn.Parameter(torch.zeros(2))], self.forward, "task"),)


class Clinging(NestedCodec):
    def phases(self):
        return (Phase("clinging", 1.0, list(self.levels.parameters()), self._keep, "feature"),)

    def _keep(self, feature, setting):
        self.last = self.forward(feature, setting)
        return self.last


class Gregarious(NestedCodec):
    @classmethod
    def blank(cls, structure):
        parts = NestedCodec.blank(structure)
        parts.encoder.norm = nn.BatchNorm2d(structure["code"][0], affine=False, track_running_stats=False)
        return parts


class Noisy(NestedCodec):
    def parts(self, setting):
        encoder, quantiser, decoder = super().parts(setting)
        return CodecParts(encoder, quantiser, nn.Sequential(Hiss(), decoder))


class Hiss(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


class Secretive(NestedCodec):
    def parts(self, setting):
        parts = super().parts(setting)
        parts.encoder.conv.weight.data[:, 0].mul_(setting.bits)
        return parts


class Untraceable(NestedCodec):
    def parts(self, setting):
        encoder, quantiser, decoder = super().parts(setting)
        return CodecParts(encoder, quantiser, nn.Sequential(Branch(), decoder))


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else x * 1


class Uncounted(NestedCodec):
    def parts(self, setting):
        encoder, quantiser, decoder = super().parts(setting)
        return CodecParts(encoder, quantiser, nn.Sequential(Scale(setting.width), decoder))


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width))

    def forward(self, x):
        return x * self.weight.mean()


class Contract(CodecContract):
    __test__ = False
    shapes = ((4, 5, 9), (3, 4, 4))


@pytest.mark.parametrize(("codec", "test"), [
    (Repeating, "test_settings_are_what_was_offered"),
    (Foreign, "test_settings_are_what_was_offered"),
    (Modest, "test_the_widest_is_one_of_them"),
    (Lenient, "test_other_settings_are_refused"),
    (Turning, "test_code_and_feature_have_their_shapes"),
    (Silent, "test_a_quantised_value_is_one_of_its_levels"),
    (Signed, "test_features_out_of_a_relu_stay_nonnegative"),
    (Apart, "test_forward_is_encoder_quantiser_decoder"),
    (Remembering, "test_settings_do_not_disturb_one_another"),
    (Sharing, "test_parts_are_copies"),
    (Unwritable, "test_structure_is_json_and_blank_has_it"),
    (Incomplete, "test_structure_is_json_and_blank_has_it"),
    (Hiding, "test_the_state_is_all_there_is"),
    (Chancy, "test_equal_seeds_give_equal_codecs"),
    (Blocking, "test_gradient_reaches_every_weight_of_a_setting"),
    (Idle, "test_every_weight_is_trained_by_something"),
    (Meddling, "test_phases_train_weights_of_the_codec"),
    (Clinging, "test_phases_train_weights_of_the_codec"),
    (Gregarious, "test_a_deployed_code_does_not_depend_on_its_batch"),
    (Noisy, "test_integers_are_all_that_crosses"),
    (Secretive, "test_encoders_know_their_bits_only_if_the_codec_says_so"),
    (Untraceable, "test_work_can_be_counted"),
    (Uncounted, "test_work_can_be_counted"),
])
def test_a_broken_promise_is_noticed(codec, test):
    name = f"{codec.__module__}:{codec.__name__}"
    with pytest.raises((AssertionError, RuntimeError, TypeError, pytest.fail.Exception)):
        getattr(Contract(), test)(name)
