"""The payload coder that a device compiles for itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import autosplit.runtime
from autosplit.core.errors import BundleError, ConfigError
from autosplit.runtime.standalone import compiling
from autosplit.runtime.standalone.compiling import compiler
from autosplit.runtime.standalone.payload.coder import PayloadCoder
from autosplit.runtime.standalone.payload.frequencies import FrequencyTables
from autosplit.runtime.standalone.payload.native import (
    NATIVE,
    NATIVE_SOURCES,
    NativeCoder,
    compile_coder,
    library_of,
)

SOURCES = Path(autosplit.runtime.__file__).parent / "c" / "sources"
needs_compiler = pytest.mark.skipif(compiler() is None, reason="needs a C compiler: apt-get install gcc")


def codes(shape, bits, images=16, seed=0):
    """Smooth ones, so that neighbours tell something."""
    rng, most = np.random.default_rng(seed), 2**bits - 1
    channels, height, width = shape
    coarse = rng.normal(most / 2, most / 6, (images, channels, -(-height // 2), -(-width // 2)))
    fine = coarse.repeat(2, axis=2).repeat(2, axis=3)[:, :, :height, :width]
    return (fine + rng.normal(0, 0.4, fine.shape)).round().clip(0, most).astype(np.int32)


def coder_of(shape=(6, 8, 8), bits=4, rate=3):
    return PayloadCoder(FrequencyTables.fit(codes(shape, bits), bits), shape, b"a deployment", rate)


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle" / NATIVE
    folder.mkdir(parents=True)
    for name in NATIVE_SOURCES:
        shutil.copy(SOURCES / name, folder)
    return folder.parent


@needs_compiler
@pytest.mark.parametrize(("shape", "bits"), [((6, 8, 8), 4), ((3, 7, 5), 8), ((1, 1, 1), 1), ((32, 4, 4), 2)])
def test_it_makes_the_same_payloads(bundle, shape, bits):
    coder = coder_of(shape, bits)
    library = compile_coder(bundle, [coder])
    assert library == library_of(bundle)
    assert sorted(p.name for p in library.parent.iterdir()) == sorted([*NATIVE_SOURCES, library.name])
    made, symbols = NativeCoder(library, coder), codes(shape, bits, images=40, seed=1)
    assert made.encode_batch(symbols) == coder.encode_batch(symbols)
    assert [coder.decode(payload).tolist() for payload in made.encode_batch(symbols)] == symbols.tolist()
    assert made.encode(symbols[0].transpose(0, 2, 1).copy().transpose(0, 2, 1)) == coder.encode(symbols[0])
    assert made.encode(symbols[0].astype(np.int64)) == coder.encode(symbols[0])


@needs_compiler
def test_some_code_has_contexts_and_some_has_none():
    """Else the comparison above would show half of it."""
    assert coder_of((6, 8, 8), 4).tables.middle is not None
    assert coder_of((1, 1, 1), 1).tables.middle is None


@needs_compiler
def test_it_refuses_what_python_refuses(bundle):
    coder = coder_of()
    made = NativeCoder(compile_coder(bundle, [coder]), coder)
    good = codes((6, 8, 8), 4)[0]
    for wrong in (good[:, :7], good + 16, good - 16, good.astype(np.float32)):
        with pytest.raises(ConfigError) as python:
            coder.encode(wrong)
        with pytest.raises(ConfigError) as compiled:
            made.encode(wrong)
        assert str(compiled.value) == str(python.value)


@needs_compiler
def test_a_library_that_makes_other_payloads_is_not_kept(bundle):
    coder = coder_of()
    before = compile_coder(bundle, [coder]).read_bytes()
    source = bundle / NATIVE / "payload.c"
    text = source.read_text()
    assert "0x1DB71064u" in text
    source.write_text(text.replace("0x1DB71064u", "0x1DB71065u"))
    with pytest.raises(BundleError, match="makes other payloads than Python's"):
        compile_coder(bundle, [coder])
    assert library_of(bundle).read_bytes() == before
    source.write_text("int broken(")
    with pytest.raises(BundleError, match="ended with 1 on the C sources"):
        compile_coder(bundle, [coder])
    assert len(list((bundle / NATIVE).iterdir())) == len(NATIVE_SOURCES) + 1


def test_without_a_compiler_or_a_source(bundle, monkeypatch):
    coder = coder_of()
    monkeypatch.setattr(compiling, "compiler", lambda: None)
    with pytest.raises(ConfigError, match=r"no C compiler here .* do without"):
        compile_coder(bundle, [coder])
    for coders in ([], [PayloadCoder(FrequencyTables.fit(codes((1, 256, 256), 1, 1), 1), (1, 256, 256), b"")]):
        with pytest.raises(ConfigError, match="brings no payload coder to compile"):
            compile_coder(bundle, coders)
    (bundle / NATIVE / "payload.c").unlink()
    with pytest.raises(ConfigError, match="brings no payload coder to compile"):
        compile_coder(bundle, [coder])


def test_what_is_no_library_of_this_machine_is_told(bundle):
    library_of(bundle).write_bytes(b"of another machine")
    with pytest.raises(BundleError, match=r"does not load here .* compile it again .* or delete it"):
        NativeCoder(library_of(bundle), coder_of())
