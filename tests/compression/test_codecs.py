"""Codecs by name, the grids they are offered, and their quantiser."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
import torch

from autosplit.compression import build_codec, codec_key, list_codecs, load_codec
from autosplit.compression.codecs.base import Codec, Offer, Quantiser, code_grids
from autosplit.compression.codecs.bottlenet import BottleNetCodec
from autosplit.compression.codecs.nested import NestedCodec
from autosplit.core.errors import ConfigError, PluginError, UnknownNameError
from autosplit.runtime.standalone.payload.frequencies import MAX_BITS

SHAPE, OFFER = (6, 8, 8), Offer((2, 4), (2, 8))

BAD_PLUGINS = """
from autosplit.compression.codecs.base import Codec
from autosplit.compression.codecs.nested import NestedCodec

number = 3

class Unfinished(Codec):
    name = "unfinished"

class Broken(NestedCodec):
    def __init__(self, shape, offer, nonnegative):
        raise RuntimeError("no\\nluck")
"""


class TestByName:
    def test_list(self):
        assert list_codecs() == ["aecnn", "bottlenet++", "factorised", "jalad", "nested"]
        assert all(load_codec(name).name == name for name in list_codecs())

    def test_the_name_is_the_family_of_its_settings(self):
        for name in (*list_codecs(), "bottlenet++:awgn=0.1", "autosplit.compression.codecs.nested:NestedCodec"):
            codec = build_codec(name, SHAPE, OFFER, True)
            assert codec.family == name
            assert {s.family for s in codec.settings()} == {codec.widest.family} == {name}

    def test_options_reach_the_codec(self):
        codec = build_codec("bottlenet++:erasure=0.25", SHAPE, OFFER, True)
        assert isinstance(codec, load_codec("bottlenet++:erasure=0.25"))
        assert codec.parts(codec.widest).decoder.channel.level == 0.25
        assert load_codec("bottlenet++:awgn=0.1") is BottleNetCodec

    @pytest.mark.parametrize("name", ["nested:deep", "jalad:4", "aecnn:awgn=0.1"])
    def test_options_where_there_are_none(self, name):
        with pytest.raises(ConfigError, match=f"codec '{name}': '{name.partition(':')[0]}' takes no options"):
            build_codec(name, SHAPE, OFFER, True)

    @pytest.mark.parametrize(("name", "message"), [
        ("bottlenet++:rain=0.1", "unknown channel noise 'rain'.*awgn, erasure"),
        ("bottlenet++:awgn", "'awgn': the level must be a number"),
        ("bottlenet++:awgn=much", "the level must be a number"),
        ("bottlenet++:erasure=1", r"in \[0, 1\), as in 'erasure=0\.1'"),
    ])
    def test_bad_options(self, name, message):
        with pytest.raises(ConfigError, match=message):
            build_codec(name, SHAPE, OFFER, True)

    def test_an_unknown_name_names_the_nearest(self):
        with pytest.raises(UnknownNameError, match="unknown codec 'nestd'; did you mean 'nested'"):
            load_codec("nestd")

    def test_what_is_no_codec(self, tmp_path):
        (tmp_path / "bad.py").write_text(BAD_PLUGINS)
        with pytest.raises(PluginError, match="number' is no subclass of"):
            load_codec(f"{tmp_path / 'bad.py'}:number")
        with pytest.raises(PluginError, match="is no subclass of"):
            load_codec("autosplit.runtime.standalone.payload.coder:PayloadCoder")

    @pytest.mark.parametrize("name", ["Unfinished", "Broken"])
    def test_a_plugin_that_cannot_be_built_is_named(self, tmp_path, name):
        (tmp_path / "bad.py").write_text(BAD_PLUGINS)
        with pytest.raises(PluginError, match=rf"bad\.py:{name}") as caught:
            build_codec(f"{tmp_path / 'bad.py'}:{name}", SHAPE, OFFER, True)
        assert "\n" not in str(caught.value)


class TestGrids:
    @pytest.mark.parametrize(("shape", "max_grid", "levels", "expected"), [
        ((16, 32, 32), 8, 3, ((8, 8), (4, 4), (2, 2))),
        ((16, 32, 32), None, None, ((32, 32), (16, 16), (8, 8), (4, 4), (2, 2), (1, 1))),
        ((16, 32, 32), 1, None, ((1, 1),)),
        ((64, 8, 8), 8, 1, ((8, 8),)),
        ((6, 7, 7), None, None, ((7, 7), (4, 4), (2, 2), (1, 1))),
        ((6, 7, 7), 8, 3, ((7, 7), (4, 4), (2, 2))),
        ((6, 7, 7), 4, 3, ((4, 4), (2, 2), (1, 1))),
        ((6, 7, 7), 4, 99, ((4, 4), (2, 2), (1, 1))),
        ((4, 5, 9), 4, 3, ((2, 3), (1, 2))),
        ((4, 5, 9), None, None, ((5, 9), (3, 5), (2, 3), (1, 2))),
        ((4, 9, 5), None, None, ((9, 5), (5, 3), (3, 2), (2, 1), (1, 1))),
        ((4, 1, 8), None, None, ((1, 8),)),
        ((4, 1, 8), 4, None, ((1, 4),)),
        ((3, 1, 1), None, None, ((1, 1),)),
        ((3, 17, 17), None, None, ((17, 17), (9, 9), (5, 5), (3, 3), (2, 2), (1, 1))),
    ])
    def test_halvings(self, shape, max_grid, levels, expected):
        assert code_grids(shape, max_grid, levels) == expected

    @pytest.mark.parametrize("side", range(1, 40))
    def test_square_features_go_down_to_one_cell(self, side):
        grids = code_grids((3, side, side), None, None)
        assert grids[0] == (side, side)
        assert grids[-1] == (1, 1)
        assert all(b == ((a[0] + 1) // 2, (a[1] + 1) // 2) for a, b in pairwise(grids))

    @pytest.mark.parametrize("max_grid", range(1, 12))
    @pytest.mark.parametrize("shape", [(3, 7, 7), (3, 10, 23), (3, 32, 32)])
    def test_no_grid_is_larger_than_asked(self, shape, max_grid):
        assert max(code_grids(shape, max_grid, None)[0]) <= max_grid

    def test_families_that_code_on_the_features_own_grid(self):
        for name in ("aecnn", "jalad"):
            codec = build_codec(name, SHAPE, Offer((2,), (2,), max_grid=2, grid_levels=3), True)
            assert codec.grids == {8: (8, 8)}


class TestWidths:
    def test_none_wider_than_the_feature(self):
        offer = Offer((1, 4, 16, 64), (2,))
        assert build_codec("aecnn", (6, 8, 8), offer, True).widths == (1, 4)
        assert build_codec("bottlenet++", (3, 8, 8), offer, True).widths == (1,)
        assert build_codec("aecnn", (6, 8, 8), Offer((64,), (2,)), True).widths == (6,)

    def test_the_plain_quantiser_sends_all_channels(self):
        codec = build_codec("jalad", (6, 8, 8), Offer((1, 4), (2, 4)), True)
        assert [(s.width, s.grid, s.bits) for s in codec.settings()] == [(6, 8, 2), (6, 8, 4)]


class TestQuantiser:
    @pytest.mark.parametrize("bits", range(1, MAX_BITS + 1))
    def test_starts_at_the_best_limit_for_a_gaussian(self, bits):
        """No limit a tenth away does much better; mid-tread levels leave the optimum a little elsewhere."""
        quantiser = Quantiser(bits, learned=False)
        x = torch.randn(200_000, generator=torch.Generator().manual_seed(0))

        def error(limit):
            return float((Quantiser(bits, limit=limit, learned=False)(x) - x).square().mean())

        start = quantiser.limit.item()
        assert error(start) < 1.15 * min(error(start * 0.9), error(start * 1.1))
        assert float(quantiser(x).abs().max()) <= start

    def test_one_limit_a_channel_or_one_for_all(self):
        assert Quantiser(2).limit.shape == ()
        quantiser = Quantiser(2, 3)
        assert quantiser.limit.shape == (3, 1, 1)
        with torch.no_grad():
            quantiser.limit[1] = 10.0
        x = torch.full((1, 3, 2, 2), 9.0)
        assert quantiser(x)[0, :, 0, 0].tolist() == [1.0, 5.0, 1.0]

    def test_a_given_limit_is_not_learned(self):
        assert Quantiser(3, limit=1.5).limit.item() == 1.5
        assert Quantiser(3).limit.requires_grad
        assert not Quantiser(3, limit=1.0, learned=False).limit.requires_grad
        assert "limit" in Quantiser(3, learned=False).state_dict()  # a deployment stores it


def test_keys_of_caches_follow_the_file_of_a_plugin(tmp_path):
    """Else a codec that was edited would get the weights of the one before."""
    assert codec_key("nested") == "nested"
    assert codec_key("bottlenet++:awgn=0.1") == "bottlenet++:awgn=0.1"
    file = tmp_path / "codec.py"
    text = "from autosplit.compression.codecs.nested import NestedCodec\n\nclass Mine(NestedCodec):\n    pass\n"
    file.write_text(text, encoding="utf-8")
    before = codec_key(f"{file}:Mine")
    assert before == codec_key(f"{file}:Mine")
    file.write_text(text + "\nclass Other(NestedCodec):\n    pass\n", encoding="utf-8")
    os.utime(file, ns=(1, 1))
    assert codec_key(f"{file}:Mine") != before


def test_the_base_class_cannot_be_built():
    with pytest.raises(TypeError, match="abstract"):
        Codec(SHAPE, OFFER, True)
    assert issubclass(NestedCodec, Codec)
