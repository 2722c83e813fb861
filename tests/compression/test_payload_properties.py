"""Payloads of every codec at split points of two real networks: what is sent arrives, and nothing else does.

Hypothesis chooses among all splits, widths, grids and bits; one split a family is gone through in full.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zlib
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autosplit.compression import build_codec, list_codecs
from autosplit.compression.codecs.base import Codec, Offer
from autosplit.compression.network import SplitNetwork, recalibrate
from autosplit.compression.quantise import dequantise
from autosplit.core.blueprint import Blueprint
from autosplit.core.errors import PayloadError
from autosplit.core.plan import CodecSetting, Plan
from autosplit.models.loading import build_backbone
from autosplit.models.splitting import cut, find_split_points, select_split_points
from autosplit.models.tracing import trace
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.standalone.payload.coder import PayloadCoder
from autosplit.runtime.standalone.payload.frequencies import FrequencyTables
from autosplit.runtime.standalone.payload.header import HEADER_BYTES
from tests.tiny import randomise_norms, tiny_dataset

pytestmark = pytest.mark.usefixtures("one_thread")

SPLITS = {
    ("resnet8", 32): ("stem", "layer1", "layer2", "layer3"),
    ("torchvision:mobilenet_v2", 64): ("features.0", "features.3", "features.6", "features.16"),
}
FAMILIES = ("nested", "aecnn", "bottlenet++", "bottlenet++:awgn=0.1", "bottlenet++:erasure=0.01", "jalad")
OFFER = Offer(widths=(1, 2, 4, 8, 16, 32), bits=(1, 2, 4, 6, 8))
IMAGES, CALIBRATION, KEY = 8, 5, b"deployment 1"

ALL = [pytest.param(*network, family, id=f"{network[0].split(':')[-1]}-{family}")
       for network in SPLITS for family in FAMILIES]


def sampled(examples):
    return settings(derandomize=True, deadline=None, max_examples=examples, database=None)


@pytest.fixture(autouse=True, scope="module")
def _empty_caches():
    yield
    for cached in (halves, codec_at, code_at):
        cached.cache_clear()


@cache
def halves(backbone: str, side: int, split: str) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """Head and tail of a network with random weights, images, and their features."""
    torch.manual_seed(0)
    network = build_backbone(backbone, 10, 3, (side, side))
    randomise_norms(network)
    images = torch.randn(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(1))
    recalibrate(network, images)  # else random weights make all features alike towards the end
    graph = trace(network, (3, side, side))
    (point,) = select_split_points(find_split_points(graph, (3, side, side)), (split,))
    head, tail = cut(graph, point)
    with torch.no_grad():
        return head, tail, images, head(images)


@cache
def codec_at(backbone: str, side: int, split: str, family: str) -> Codec:
    feature = halves(backbone, side, split)[3]
    torch.manual_seed(0)
    codec = build_codec(family, tuple(feature.shape[1:]), OFFER, bool(feature.min() >= 0))
    codec.fit(feature)
    return codec


@dataclass
class Code:
    """One setting at one split point, with statistics of its images: the network, and what codes its symbols."""

    network: SplitNetwork
    images: Tensor
    codec: Codec
    setting: CodecSetting

    @cached_property
    def symbols(self) -> Tensor:
        with torch.inference_mode():
            return self.network.symbols(self.images)

    @cached_property
    def tables(self) -> FrequencyTables:
        return FrequencyTables.fit(self.symbols[:CALIBRATION].numpy(), self.setting.bits)

    @cached_property
    def coder(self) -> PayloadCoder:
        return PayloadCoder(self.tables, self.codec.code_shape(self.setting), KEY)

    @cached_property
    def payloads(self) -> list[bytes]:
        return self.coder.encode_batch(self.symbols.numpy())


@lru_cache(maxsize=8)
def code_at(backbone: str, side: int, split: str, family: str, number: int) -> Code:
    """The setting of this number, modulo how many there are."""
    head, tail, images, feature = halves(backbone, side, split)
    codec = codec_at(backbone, side, split, family)
    setting = codec.settings()[number % len(codec.settings())]
    parts = codec.parts(setting)
    recalibrate(SplitNetwork(nn.Identity(), nn.Identity(), *parts), feature)
    return Code(SplitNetwork(head, tail, *parts).eval(), images, codec, setting)


NUMBERS = st.integers(0, 999)


# --- what is sent arrives ---------------------------------------------------------------------------------------------


def check_identity_channel(code: Code) -> None:
    """Device and edge together are the network that was trained, to the last bit."""
    symbols, shape = code.symbols, code.codec.code_shape(code.setting)
    assert symbols.dtype == torch.int32
    assert symbols.shape == (IMAGES, *shape) == (IMAGES, code.setting.width, *code.codec.grids[code.setting.grid])
    assert 0 <= int(symbols.min()) < int(symbols.max()) < 2**code.setting.bits
    with torch.inference_mode():
        logits = code.network.finish(symbols)
        assert logits.shape == (IMAGES, 10)
        assert logits.isfinite().all()
        assert torch.equal(logits, code.network(code.images))


def check_payloads(code: Code) -> None:
    """Round trip bit for bit; length within the bound and near the entropy; a header as docs/protocol.md has it."""
    arrived = code.coder.decode_batch(code.payloads)
    assert arrived.dtype == np.int32
    assert np.array_equal(arrived, code.symbols.numpy())
    entropy = code.tables.entropy_bits(code.symbols.numpy()) / 8
    numbers = np.array([2, 16, *code.codec.code_shape(code.setting), 2**code.setting.bits, len(KEY)], dtype="<u4")
    tables = code.tables.to_arrays()["frequencies"].astype("<u4")
    agreed = hashlib.sha256(numbers.tobytes() + KEY + tables.tobytes()).digest()
    raw = code.coder.max_payload_bytes - HEADER_BYTES
    for payload, size in zip(code.payloads, np.minimum(entropy, raw), strict=True):
        assert HEADER_BYTES <= len(payload) <= code.coder.max_payload_bytes
        coded = len(payload) - HEADER_BYTES
        assert abs(coded - size) <= max(2, 0.02 * size), f"{coded} bytes for {size:.1f} of entropy"
        if coded > 200:
            assert abs(coded - size) <= 0.02 * size
        assert payload[0] == 0x20
        assert int.from_bytes(payload[1:4], "big") == zlib.crc32(agreed + payload[4:]) % 2**24


@pytest.mark.parametrize(("backbone", "side", "family"), ALL)
def test_any_setting_anywhere(backbone, side, family):
    @given(split=st.sampled_from(SPLITS[backbone, side]), number=NUMBERS)
    @sampled(10)
    def check(split, number):
        code = code_at(backbone, side, split, family, number)
        check_identity_channel(code)
        check_payloads(code)

    check()


@pytest.mark.parametrize("family", list_codecs())
def test_every_setting_of_one_split(family):
    for number in range(len(codec_at("resnet8", 32, "layer3", family).settings())):
        code = code_at("resnet8", 32, "layer3", family, number)
        check_identity_channel(code)
        check_payloads(code)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_widths_grids_and_bits_that_fit_are_on_offer(family):
    codec = codec_at("torchvision:mobilenet_v2", 64, "features.3", family)
    assert codec.shape == (24, 16, 16)
    found = {(s.width, s.grid, s.bits) for s in codec.settings()}
    widths = (24,) if family == "jalad" else (1, 2, 4, 8, 16)
    grids = {"nested": (16, 8, 4, 2, 1), "aecnn": (16,), "jalad": (16,)}.get(family, (16, 8, 4))
    expected = {(w, g, b) for w in widths for g in grids for b in OFFER.bits}
    if family == "nested":  # coarse grids have room for more channels than the feature has
        expected |= {(32, g, b) for g in grids[1:] for b in OFFER.bits}
    assert found == expected


@pytest.mark.parametrize(("backbone", "side", "family"), ALL)
def test_the_costliest_code_is_within_the_bound(backbone, side, family):
    """Whatever the device sees: the rarest symbol of every channel, everywhere."""
    @given(split=st.sampled_from(SPLITS[backbone, side]), number=NUMBERS)
    @sampled(3)
    def check(split, number):
        code = code_at(backbone, side, split, family, number)
        tables = code.tables.frequencies.reshape(code.tables.channels, -1, code.tables.levels)
        rarest = tables.sum(axis=1).argmin(axis=1)
        symbols = np.broadcast_to(rarest[:, None, None], code.coder.shape)
        payload = code.coder.encode(symbols)
        assert np.array_equal(code.coder.decode(payload), symbols)
        plain = np.prod(code.coder.shape) * code.setting.bits / 8
        assert len(payload) <= code.coder.max_payload_bytes == HEADER_BYTES + np.ceil(plain)

    check()


# --- nothing else does ------------------------------------------------------------------------------------------------


def damage(code: Code, image: int, kind: str, where: float, seed: int) -> bytes:
    payload, rng = code.payloads[image], np.random.default_rng(seed)
    if kind == "truncated":
        return payload[: int(where * len(payload))]
    if kind == "bit flipped":
        altered = bytearray(payload)
        altered[int(where * len(payload))] ^= 1 << seed % 8
        return bytes(altered)
    if kind == "extended":
        return payload + rng.bytes(1 + seed % 4)
    if kind == "foreign key":
        return PayloadCoder(code.tables, code.coder.shape, b"deployment 2").encode(code.symbols[image].numpy())
    if kind == "foreign shape":
        k, h, w = code.coder.shape
        other = PayloadCoder(code.tables, (k, h * w + 1, 1), KEY)
        return other.encode(np.zeros(other.shape, dtype=np.int32))
    start = bytes([0x20]) if seed % 2 else b""
    return start + rng.bytes(int(where * (code.coder.max_payload_bytes + 9)))


@pytest.mark.parametrize(("backbone", "side", "family"), ALL)
def test_damaged_payloads_are_refused(backbone, side, family):
    kinds = ("truncated", "bit flipped", "extended", "foreign key", "foreign shape", "random bytes")

    @given(split=st.sampled_from(SPLITS[backbone, side]), number=st.integers(0, 5), image=st.integers(0, IMAGES - 1),
           kind=st.sampled_from(kinds), where=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 999))
    @sampled(30)
    def check(split, number, image, kind, where, seed):
        # few settings, far apart, so that most of the time goes into damage
        code = code_at(backbone, side, split, family, 37 * number)
        with pytest.raises(PayloadError) as caught:
            code.coder.decode(damage(code, image, kind, where, seed))
        assert "\n" not in str(caught.value)

    check()


# --- another process --------------------------------------------------------------------------------------------------

EDGE = """
import hashlib, json, sys
import torch
torch.set_num_threads(2)
from pathlib import Path
from autosplit.compression.quantise import dequantise
from autosplit.runtime.deployment import Deployment
from autosplit.core.blueprint import Blueprint

for line in sys.stdin:
    job = json.loads(line)
    deployment = Deployment.load(Blueprint.model_validate(job["blueprint"]), Path(job["weights"]))
    payloads = [bytes.fromhex(p) for p in job["payloads"]]
    symbols = torch.from_numpy(deployment.coder.decode_batch(payloads))
    quantiser = deployment.network.quantiser
    code = dequantise(symbols, quantiser.bits, quantiser.limit).detach()
    logits = torch.cat([deployment.decode(payloads[i : i + 3]) for i in range(0, len(payloads), 3)])
    print(json.dumps({"threads": torch.get_num_threads(), "logits": logits.tolist(),
                      "symbols": hashlib.sha256(symbols.numpy().tobytes()).hexdigest(),
                      "code": hashlib.sha256(code.numpy().tobytes()).hexdigest()}))
"""


def device(family: str, number: int, data) -> Deployment:
    """A deployment of a network for 16x16 images, cut in the middle."""
    torch.manual_seed(0)
    network = build_backbone("resnet8", 3, 3, (16, 16))
    randomise_norms(network)
    graph = trace(network.eval(), data.shape)
    (point,) = select_split_points(find_split_points(graph, data.shape), ("layer2",))
    head, tail = cut(graph, point)
    images = data.normalise(data.train.images[:64])
    with torch.no_grad():
        feature = head(images)
    codec = build_codec(family, point.shape, OFFER, True)
    codec.fit(feature)
    setting = codec.settings()[number % len(codec.settings())]
    network = SplitNetwork(head, tail, *codec.parts(setting)).to(memory_format=torch.channels_last)
    recalibrate(network, images)
    blueprint = Blueprint(
        backbone="resnet8", num_classes=3, image_shape=data.shape, plan=Plan(split="layer2", codec=setting), key="k",
        feature_shape=point.shape, code_shape=codec.code_shape(setting), codec=codec.structure(setting))
    return Deployment.fit(blueprint, network, data)


def test_another_process_with_other_threads_and_batches_decodes_the_same_code(tmp_path):
    data = tiny_dataset()
    images, jobs, expected = data.test.images[:10], [], []
    for i, (family, number) in enumerate(zip(FAMILIES, (40, 7, 12, 3, 9, 2), strict=True)):
        deployment = device(family, number, data)
        weights = tmp_path / f"{i}.safetensors"
        deployment.save(weights)
        payloads = deployment.encode(images)
        jobs.append({"blueprint": deployment.blueprint.model_dump(mode="json"), "weights": str(weights),
                     "payloads": [p.hex() for p in payloads]})
        with torch.inference_mode():
            symbols = deployment.network.symbols(data.normalise(images))
            quantiser = deployment.network.quantiser
            code = dequantise(symbols, quantiser.bits, quantiser.limit)
            expected.append((symbols, code, deployment.decode(payloads)))
    done = subprocess.run([sys.executable, "-c", EDGE], input="\n".join(map(json.dumps, jobs)), check=True, text=True,
                          capture_output=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(FAMILIES)
    for answer, (symbols, code, logits) in zip(answers, expected, strict=True):
        assert answer["threads"] == 2 != torch.get_num_threads()
        assert answer["symbols"] == hashlib.sha256(symbols.numpy().tobytes()).hexdigest()
        assert answer["code"] == hashlib.sha256(code.contiguous().numpy().tobytes()).hexdigest()
        torch.testing.assert_close(torch.tensor(answer["logits"]), logits, atol=1e-3, rtol=1e-3)
        assert len(symbols.unique()) > 1
