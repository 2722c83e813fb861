"""`export --target c`: sources that answer as the bundle does, and what is refused before anything is written."""

from __future__ import annotations

import json
import logging
import re
import subprocess

import numpy as np
import pytest

from autosplit.core.cache import Cache
from autosplit.core.errors import ConfigError, ParityError
from autosplit.core.plan import OUTPUT, CodecSetting, Exit, Plan
from autosplit.core.result import Result
from autosplit.core.scenario import load_scenario
from autosplit.pipeline.context import SearchContext, blueprint_of
from autosplit.runtime import export
from autosplit.runtime.c import export as c_export
from autosplit.runtime.c.export import C_FOLDER
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.export import export_bundle, export_result
from autosplit.runtime.standalone.bundle.manifest import Manifest
from autosplit.runtime.standalone.compiling import compiler
from autosplit.training.prepare import untrained
from tests.runs import failure, invoke

pytest.importorskip("onnx", reason="an extra: pip install '.[deploy]'")
pytest.importorskip("onnxruntime", reason="an extra: pip install '.[deploy]'")
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler here")


@pytest.fixture(scope="module")
def context(prepared):
    return SearchContext(prepared)


@pytest.fixture(scope="module")
def code(runs):
    return Result.load(runs["CodePruned"] / "best.json").plan


def rows_of(manifest):
    return {row.network: row for row in manifest.parity}


@pytest.fixture(scope="module")
def bundle(runs, world, tmp_path_factory):
    """A pruned head with a code, and the whole network for when the edge is lost."""
    folder = tmp_path_factory.mktemp("c") / "bundle"
    export_result(runs["CodePruned"] / "best.json", folder, fallback=True, cache=Cache(world.cache), target="c")
    return folder


@needs_compiler
def test_payloads_and_fallback_are_those_of_the_bundle(bundle):
    rows = rows_of(Manifest.load(bundle))
    assert set(rows) == {"plan", "fallback", "C", "C, fallback"}
    for name in ("C", "C, fallback"):
        assert rows[name].images > 0
        assert rows[name].labels_equal == rows[name].payloads_equal == rows[name].images
        assert rows[name].logit_error == 0.0


@needs_compiler
def test_the_vectors_of_a_bundle_are_checked_by_make(bundle, tmp_path):
    c = bundle / C_FOLDER
    copy = tmp_path / "c"
    subprocess.run(["cp", "-r", c, copy], check=True)
    done = subprocess.run(["make", "check", "CFLAGS=-O1"], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "EQUAL"
    vectors = copy / "vectors.h"
    text = vectors.read_text()
    begin = text.index("0x")
    vectors.write_text(text[:begin + 2] + ("0" if text[begin + 2] != "0" else "1") + text[begin + 3:])
    done = subprocess.run(["make", "check", "CFLAGS=-O1"], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DIFFERENT" in done.stdout


def test_a_manifest_says_what_memory_it_takes(bundle):
    found = Manifest.load(bundle).footprint
    header = (bundle / C_FOLDER / "autosplit.h").read_text()
    arena = int(re.search(r"#define AUTOSPLIT_ARENA_BYTES (\d+) ", header)[1])
    assert found.static_bytes == arena + 4 * len(Manifest.load(bundle).class_names)
    assert f"#define AUTOSPLIT_MAX_PAYLOAD_BYTES {found.payload_bytes}\n" in header
    assert 0 < found.constant_bytes < 100_000
    assert "malloc" not in (bundle / C_FOLDER / "network.c").read_text()


@needs_compiler
def test_the_whole_network_on_the_device(runs, tmp_path):
    manifest = export_result(runs["Whole"] / "best.json", tmp_path / "bundle", target="c")
    row = rows_of(manifest)["C"]
    assert (row.labels_equal, row.logit_error) == (row.images, 0.0)


@needs_compiler
@pytest.mark.parametrize("leaving", [Exit(threshold=0.5), Exit(threshold=0.7, sparsity=0.0)],
                         ids=["a classifier behind the head", "a cascade"])
def test_exits_answer_the_same_images(context, code, prepared, leaving, tmp_path):
    plan = code.model_copy(update={"exit": leaving})
    deployment = context.deployment(plan, "int8")
    images = prepared.data.test.images
    manifest = export_bundle(deployment, tmp_path / "bundle", images=images, target="c")
    rows = rows_of(manifest)
    assert rows["C"].payloads_equal == rows["C"].images
    assert rows["C"].logit_error == rows["C, fallback"].logit_error == 0.0
    sent = np.array([bool(p) for p in deployment.run(images)[1]])
    assert sent.any() or not sent.all()


def test_a_machine_without_a_compiler_compares_nothing_and_says_so(context, code, prepared, tmp_path, monkeypatch,
                                                                    caplog):
    monkeypatch.setattr(export, "compiler", lambda: None)
    with caplog.at_level(logging.WARNING):
        manifest = export_bundle(context.deployment(code, "int8"), tmp_path / "bundle",
                                 images=prepared.data.test.images[:8], target="c")
    assert set(rows_of(manifest)) == {"plan"}
    assert "no C compiler here" in caplog.text
    assert (tmp_path / "bundle" / C_FOLDER / "vectors.h").is_file()


@needs_compiler
def test_sources_that_answer_otherwise_are_reported(context, code, prepared, tmp_path, monkeypatch):
    right = c_export.write_network

    def wrong(programs, coders):
        text, size = right(programs, coders)
        return text.replace(f"{coders[0].seed}u", f"{coders[0].seed ^ 1}u"), size

    monkeypatch.setattr(c_export, "write_network", wrong)
    with pytest.raises(ParityError, match="the C network answers 0 of 8 images"):
        export_bundle(context.deployment(code, "int8"), tmp_path / "bundle", images=prepared.data.test.images[:8],
                      target="c")


@pytest.mark.parametrize(("plan", "arithmetic", "why"), [
    (Plan(split="input", codec=CodecSetting(kind="png")), "int8", "it sends pictures"),
    (Plan(split="layer2", codec=CodecSetting(kind="raw")), "int8", "it sends features as they are"),
    (Plan(split=OUTPUT, codec=CodecSetting(kind="none")), "fp32", "its device computes in fp32"),
])
def test_what_cannot_be_written_is_refused_before_anything_is(context, tmp_path, plan, arithmetic, why):
    with pytest.raises(ConfigError, match=f"cannot be written as C: {why}"):
        export_bundle(context.deployment(plan, arithmetic), tmp_path / "bundle", target="c")
    assert not (tmp_path / "bundle").exists()


def test_the_command_line(runs, tmp_path):
    found = failure("export", str(runs["CodePruned"]), "--out", str(tmp_path / "b"), "--target", "rust")
    assert "--target rust: there is no such target; choose onnx or c" in found
    found = failure("export", str(runs["JpegBody"]), "--out", str(tmp_path / "b"), "--target", "c")
    assert "cannot be written as C: it sends pictures" in found
    done = invoke("export", str(runs["CodePruned"]), "--out", str(tmp_path / "b"), "--target", "c", "--json", "--quiet")
    assert json.loads(done.stdout)["footprint"]["static_bytes"] > 0


def test_every_deployment_that_is_written_has_a_key_of_its_own(bundle, runs):
    key = Deployment.from_result(Result.load(runs["CodePruned"])).blueprint.key
    from autosplit.runtime.standalone.protocol.wire import short_key

    written = ", ".join(f"0x{b:02x}" for b in short_key(key))
    assert f"#define AUTOSPLIT_KEY {{{written}}}" in (bundle / C_FOLDER / "autosplit.h").read_text()


@needs_compiler
@pytest.mark.parametrize(("grid", "bits"), [(1, 8), (2, 2), (4, 1)])
def test_codes_whose_grid_is_pooled(grid, bits, tmp_path, one_thread):
    """On large features patches are averaged to small grids: means become symbols, each channel with its own step."""
    networks = untrained(load_scenario("default").replace(**{"space.bits": (1, 2, 8)}))
    plan = Plan(split="stem", codec=CodecSetting(kind="code", width=4, grid=grid, bits=bits))
    deployment = Deployment.fit(blueprint_of(networks, plan, "int8", "trial"), networks.supernet.shared(plan),
                                networks.data)
    manifest = export_bundle(deployment, tmp_path / "bundle", images=networks.data.test.images[:300], target="c")
    assert rows_of(manifest)["C"].payloads_equal == 300
