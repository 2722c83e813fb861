"""Bundles of every kind of plan: they answer as their deployment does, and refuse whatever was not exported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from autosplit.core.cache import Cache
from autosplit.core.errors import BundleError, ConfigError, ParityError, PayloadError
from autosplit.core.hashing import sha256_of_file
from autosplit.core.opsets import OPSETS
from autosplit.core.plan import INPUT, CodecSetting, Plan
from autosplit.core.result import Result
from autosplit.pipeline.context import SearchContext
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.export import PACKAGE, export_bundle, export_result, json_schema
from autosplit.runtime.standalone.__main__ import main
from autosplit.runtime.standalone.bundle.check import check
from autosplit.runtime.standalone.bundle.manifest import Manifest, digest_of
from autosplit.runtime.standalone.bundle.parts import load_device, load_edge
from autosplit.runtime.standalone.compiling import compiler
from autosplit.runtime.standalone.payload.native import library_of
from autosplit.runtime.standalone.profiling.clock import WallClock
from autosplit.runtime.standalone.profiling.coders import coding_ksymbols
from tests.runs import failure, invoke

onnx = pytest.importorskip("onnx", reason="an extra: pip install '.[deploy]'")
pytest.importorskip("onnxruntime", reason="an extra: pip install '.[deploy]'")

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler here")
FOUND = ("JpegBody", "Whole", "CodePruned")  # exported from result files; Whole and CodePruned are int8
MADE = ("Code fp32", "raw int8")
KINDS = (*FOUND, *MADE)
NEEDED = ["onnxruntime", "numpy", "constriction", "pyzmq"]


@pytest.fixture(scope="module")
def deployments(runs, prepared):
    found = {kind: Deployment.from_result(Result.load(runs[kind])) for kind in FOUND}
    code = Result.load(runs["Code"] / "best.json").plan
    return {**found, "Code fp32": SearchContext(prepared).deployment(code, "fp32"),
            "raw int8": SearchContext(prepared).deployment(
                Plan(split="layer2", codec=CodecSetting(kind="raw")), "int8")}


@pytest.fixture(scope="module")
def bundles(runs, world, deployments, prepared, tmp_path_factory):
    """Folder of a bundle a kind; that of CodePruned has a fallback."""
    root = tmp_path_factory.mktemp("bundles")
    for kind in FOUND:
        export_result(runs[kind] / "best.json", root / kind, fallback=kind == "CodePruned", cache=Cache(world.cache))
    for kind in MADE:
        export_bundle(deployments[kind], root / kind, images=prepared.data.test.images,
                      class_names=prepared.data.class_names)
    return {kind: root / kind for kind in KINDS}


@pytest.fixture(scope="module")
def images(prepared):
    return prepared.data.test.images


@pytest.fixture
def copy(bundles, tmp_path):
    """A bundle that may be spoilt."""
    return shutil.copytree(bundles["CodePruned"], tmp_path / "bundle")


def answers(folder, images):
    device = load_device(folder)
    array = images.numpy()
    return device.logits(array) if device.answers else load_edge(folder).decode(device.encode(array))


# --- parity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_answers_as_its_deployment(bundles, deployments, kind, images):
    deployment = deployments[kind]
    logits, payloads = deployment.run(images)
    found, sent = answers(bundles[kind], images), load_device(bundles[kind]).encode(images.numpy())
    assert found.dtype == np.float32
    assert (found.argmax(1) == logits.argmax(1).numpy()).all()
    same = np.array([a == b for a, b in zip(payloads, sent, strict=True)])
    assert np.abs(found - logits.numpy())[same].max() < 1e-4
    assert same.all() or kind == "Code fp32"  # sums of floats are taken in another order
    (parity, *_) = Manifest.load(bundles[kind]).parity
    assert parity.images == parity.labels_equal == len(images)
    assert parity.payloads_equal == same.sum()
    assert parity.holds


def test_int8_on_the_device_is_exact(bundles, deployments, images):
    assert torch.equal(torch.from_numpy(answers(bundles["Whole"], images)), deployments["Whole"].run(images)[0])


@pytest.mark.parametrize("kind", ["CodePruned", "raw int8"])
def test_any_number_of_images_gives_the_same_payloads(bundles, kind, images):
    device = load_device(bundles[kind], threads=2)
    together = device.encode(images.numpy())
    assert [device.encode(images[i : i + 1].numpy())[0] for i in range(5)] == together[:5]
    assert device.encode(images[:0].numpy()) == []
    assert load_edge(bundles[kind]).decode([]).shape == (0, 3)


def test_the_fallback_is_the_whole_backbone(bundles, prepared, images):
    device = load_device(bundles["CodePruned"])
    whole = SearchContext(prepared).deployment(Plan(split="output", codec=CodecSetting(kind="none")), "int8")
    assert torch.equal(torch.from_numpy(device.fallback(images.numpy())), whole.run(images)[0])
    assert load_device(bundles["Code fp32"]).fallback(images.numpy()) is None
    assert [p.network for p in device.manifest.parity] == ["plan", "fallback"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifest_says_what_is_in_the_bundle(bundles, deployments, prepared, kind):
    written = json.loads((bundles[kind] / "manifest.json").read_text())
    jsonschema.validate(written, json_schema())
    manifest, blueprint = Manifest.load(bundles[kind]), deployments[kind].blueprint
    assert (manifest.key, manifest.image_shape, manifest.num_classes) == (blueprint.key, (3, 16, 16), 3)
    assert manifest.class_names == prepared.data.class_names
    assert Plan.model_validate(manifest.plan) == blueprint.plan
    assert manifest.normalisation.mean == tuple(prepared.data.mean.tolist())
    there = {p.relative_to(bundles[kind]).as_posix() for p in bundles[kind].rglob("*") if p.is_file()}
    assert set(manifest.files) == {p for p in there if "__pycache__" not in p} - {"manifest.json"}
    assert ("device.onnx" in there, "edge.onnx" in there) == (kind != "JpegBody", kind != "Whole")


def test_nothing_of_this_machine_is_in_the_networks(bundles):
    for folder in bundles.values():
        for path in folder.glob("*.onnx"):
            assert str(Path.cwd()).encode() not in path.read_bytes()


# --- misuse ---------------------------------------------------------------------------------------------------------


def test_bad_payloads_are_refused_with_their_index(bundles, images):
    payloads = load_device(bundles["CodePruned"]).encode(images[:2].numpy())
    for kind in ("CodePruned", "raw int8", "JpegBody"):
        edge = load_edge(bundles[kind])
        good = load_device(bundles[kind]).encode(images[:1].numpy())
        for bad in (b"", payloads[0] + b"\xff\xd9"):
            with pytest.raises(PayloadError, match=r"^payload 1: "):
                edge.decode([*good, bad])


def test_bad_images_are_refused(bundles, images):
    device = load_device(bundles["CodePruned"])
    for bad in (images.float().numpy(), images[:, :2].numpy(), images[0].numpy(), [1]):
        with pytest.raises(ConfigError, match=r"takes uint8 images of shape \(N, 3, 16, 16\)"):
            device.encode(bad)


def test_each_side_says_what_it_cannot_do(bundles, images):
    with pytest.raises(ConfigError, match="is answered by its edge"):
        load_device(bundles["CodePruned"]).logits(images.numpy())
    with pytest.raises(BundleError, match="there is no edge"):
        load_edge(bundles["Whole"])
    device = load_device(bundles["Whole"])
    assert device.answers
    assert device.encode(images.numpy()) == [b""] * len(images)


def test_any_altered_or_missing_file_is_refused(copy):
    for name in Manifest.load(copy).files:
        path = copy / name
        content = path.read_bytes()
        for damage in (content[:-1], content[:9] + bytes([content[9] ^ 1]) + content[10:]):
            path.write_bytes(damage)
            with pytest.raises(BundleError, match=f"{name}' was altered"):
                load_device(copy)
        path.unlink()
        with pytest.raises(BundleError, match=f"{name}' is missing"):
            load_edge(copy)
        path.write_bytes(content)
    load_device(copy)


def alter(folder, **values):
    """Change fields of the manifest; `None` takes one out."""
    data = json.loads((folder / "manifest.json").read_text()) | values
    kept = {name: value for name, value in data.items() if value is not None or name not in values}
    (folder / "manifest.json").write_text(json.dumps(kept))


def seal(folder, **files):
    """A manifest that fits files as they are now, as somebody would forge it; `files` adds entries."""
    data = json.loads((folder / "manifest.json").read_text())
    data["files"] = {name: sha256_of_file(folder / name) for name in data["files"]} | files
    (folder / "manifest.json").write_text(json.dumps({**data, "digest": digest_of(data)}))


@pytest.mark.parametrize(("values", "message"), [
    ({"format_version": 1}, "format version 1, this runtime reads version 7"),
    ({"key": "other"}, "was altered"), ({"key": None}, "lacks, or does not know, key"),
    ({"colour": 1}, "lacks, or does not know, colour"), ({"image_shape": [3, 16]}, "image_shape has 2 entries"),
    ({"kind": "zip"}, "kind is 'zip', expected one of"), ({"arithmetic": 8}, "arithmetic is 8"),
    ({"class_names": "abc"}, "class_names is no list"), ({"code_shape": [True, 1, 1]}, "code_shape"),
    ({"normalisation": {"mean": [0.5]}}, "normalisation lacks"), ({"files": []}, "files is no object"),
])
def test_a_manifest_that_does_not_fit_is_refused(copy, values, message):
    alter(copy, **values)
    with pytest.raises(BundleError, match=message) as caught:
        Manifest.load(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "/etc/hostname", "coinference/../../x"])
def test_a_manifest_cannot_point_outside(copy, name):
    seal(copy, **{name: "0"})
    with pytest.raises(BundleError, match="lies outside"):
        Manifest.load(copy)


def test_what_is_no_bundle_is_refused(tmp_path, copy):
    with pytest.raises(BundleError, match="is no bundle"):
        load_device(tmp_path)
    for text in ("{", "[]", '{"format_version": 3'):
        (copy / "manifest.json").write_text(text)
        with pytest.raises(BundleError, match=r"manifest\.json"):
            load_device(copy)


def test_networks_and_tables_that_do_not_run_here_are_refused(copy):
    (copy / "tables.npy").write_bytes(b"no tables")
    seal(copy)
    with pytest.raises(BundleError, match=r"tables\.npy: no numpy array"):
        load_device(copy)
    (copy / "device.onnx").write_bytes(b"no network")
    seal(copy)
    with pytest.raises(BundleError, match="does not run in onnxruntime"):
        load_device(copy)


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_tells_what_it_compared(runs, tmp_path, images):
    done = invoke("export", runs["JpegBody"], "--out", tmp_path / "b", "--images", "5", "--json", "--quiet")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["parity"][0]["images"] == said["parity"][0]["labels_equal"] == 5
    assert said["bundle"] == str(tmp_path / "b")
    assert "is not empty" in failure("export", runs["JpegBody"], "--out", tmp_path / "b")
    shown = invoke("export", runs["JpegBody"], "--out", tmp_path / "c", "--quiet").stdout
    assert "labels equal" in shown
    assert f"{len(images)}" in shown


def test_a_fallback_needs_the_backbone(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(tmp_path / "empty"))
    line = failure("export", runs["JpegBody"], "--out", tmp_path / "b", "--fallback")
    assert "is not in the cache" in line
    assert not (tmp_path / "b").exists()
    assert "on the device already" in failure("export", runs["Whole"], "--out", tmp_path / "b", "--fallback")


def test_absent_packages_are_named(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install onnx onnxscript onnxruntime" in failure("export", runs["JpegBody"], "--out", tmp_path / "b")


def test_a_bundle_that_answers_otherwise_is_left_but_refused(runs, tmp_path, monkeypatch):
    import autosplit.runtime.export as module

    write = module.write_edge

    def another(deployment, path, **options):
        with torch.no_grad():
            for parameter in deployment.network.tail.parameters():
                parameter.neg_()
            written = write(deployment, path, **options)
            for parameter in deployment.network.tail.parameters():
                parameter.neg_()
        return written

    monkeypatch.setattr(module, "write_edge", another)
    line = failure("export", runs["JpegBody"], "--out", tmp_path / "b", code=4)
    assert "the bundle is left for inspection" in line
    assert Manifest.load(tmp_path / "b").parity[0].holds is False


def test_webp_of_the_least_quality(prepared, tmp_path):
    """0 is a quality of WebP, and of AVIF, though not of JPEG."""
    plan = Plan(split=INPUT, codec=CodecSetting(kind="webp-shared", quality=0, effort=0))
    deployment = SearchContext(prepared).deployment(plan, "int8", tuned=False)
    export_bundle(deployment, tmp_path / "b", images=prepared.data.test.images[:8])
    data = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert Manifest.load(tmp_path / "b").quality == 0
    data["kind"] = "jpeg-shared"
    data["digest"] = digest_of(data)
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match=r"jpeg quality 0 is outside 1\.\.100"):
        Manifest.load(tmp_path / "b")


@pytest.mark.parametrize("opset", [18, 21])
def test_an_opset_of_choice(deployments, tmp_path, opset):
    """All networks of the bundle have it, and its README asks for what runs it."""
    export_bundle(deployments["CodePruned"], tmp_path / "b", opset=opset)
    for file in ("device.onnx", "edge.onnx"):
        assert onnx.load(tmp_path / "b" / file).opset_import[0].version == opset
    assert Manifest.load(tmp_path / "b").opset == opset
    assert f"onnxruntime>={OPSETS[opset].onnxruntime}'" in (tmp_path / "b" / "README.md").read_text()


def test_an_opset_that_cannot_be_written(deployments, tmp_path):
    with pytest.raises(ConfigError, match="opset 17 cannot be written; choose one from 18 to 23"):
        export_bundle(deployments["CodePruned"], tmp_path / "b", opset=17)
    assert not (tmp_path / "b").exists()


def test_without_images_nothing_is_compared(deployments, tmp_path, capsys):
    manifest = export_bundle(deployments["JpegBody"], tmp_path / "b")
    assert manifest.parity == ()
    assert manifest.class_names == ("0", "1", "2")
    assert main(["check", str(tmp_path / "b")]) == 2
    assert "holds no images" in capsys.readouterr().err


def test_parity_is_about_labels_and_logits(bundles):
    (parity, *_) = Manifest.load(bundles["Code fp32"]).parity
    assert replace(parity, payloads_equal=0).holds
    assert not replace(parity, labels_equal=parity.images - 1).holds
    assert not replace(parity, logit_error=2 * parity.tolerance).holds
    assert issubclass(ParityError, RuntimeError)


# --- on its own -----------------------------------------------------------------------------------------------------

BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"autosplit", "torch", "torchvision", "onnx", "onnxscript", "pydantic", "PIL", "typer",
                                  "rich", "pandas", "scipy", "sklearn", "safetensors", "yaml", "zmq"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
sys.path = [p for p in sys.path if p != ""]
sys.path.insert(0, ".")
from coinference.__main__ import main
sys.exit(main(["check", *sys.argv[1:]]))
"""


def run_alone(folder, *arguments, python=sys.executable, code=BLOCKED):
    return subprocess.run([python, *(["-c", code] if code else ["-m", PACKAGE, "check"]), *arguments], cwd=folder,
                          env={"PATH": "/usr/bin:/bin"}, text=True, capture_output=True, check=False)


@pytest.mark.parametrize("kind", ["CodePruned", "raw int8", "Whole"])
def test_a_bundle_needs_neither_torch_nor_autosplit(bundles, kind):
    done = run_alone(bundles[kind], "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["passed"]
    assert said["labels_equal"] == said["payloads_equal"] == said["images"] == 8
    assert said["fallback_equal"] == (8 if kind == "CodePruned" else None)


def test_a_bundle_whose_images_cross_as_files_asks_for_pillow(bundles):
    done = run_alone(bundles["JpegBody"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: image files need the package Pillow: pip install pillow\n"


@pytest.mark.parametrize("command", [("serve",), ("infer", ".", "--edge", "127.0.0.1:1", "x.npy")])
def test_serving_asks_for_pyzmq(bundles, command):
    done = run_alone(bundles["CodePruned"], *command, code=BLOCKED.replace('main(["check", *sys.argv[1:]])', "main()"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("error: serve and infer need the package pyzmq: pip install pyzmq (zmq is blocked)\n")


ENCODE = """
from pathlib import Path
import numpy as np
from coinference.bundle import load_device
from coinference.payload.native import NativeCoder
from coinference.profiling.clock import WallClock
from coinference.profiling.coders import coding_ksymbols

made, encode = [], NativeCoder.encode
NativeCoder.encode = lambda self, symbols: (made.append(1), encode(self, symbols))[1]
payloads = load_device(".").encode(np.load("images.npy"))
encoded = len(made)
assert coding_ksymbols(WallClock(), 3, Path(".")) > 0
print(" ".join(p.hex() for p in payloads), encoded, len(made) - encoded, sep="\\n")
"""


@needs_compiler
def test_a_device_may_compile_its_payload_coder(copy, images):
    before = load_device(copy).encode(images.numpy())
    np.save(copy / "images.npy", images.numpy())
    for native in (False, True):
        ran = run_alone(copy, code=BLOCKED.replace("from coinference.__main__ import main", ENCODE).replace(
            'sys.exit(main(["check", *sys.argv[1:]]))', ""))
        assert ran.returncode == 0, ran.stderr
        payloads, encoded, profiled = ran.stdout.splitlines()
        assert [bytes.fromhex(p) for p in payloads.split()] == before
        assert int(encoded) == (len(images) if native else 0)
        assert (int(profiled) > 0) is native
        if not native:
            done = run_alone(copy, code=BLOCKED.replace('main(["check", *sys.argv[1:]])', 'main(["compile"])'))
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith("compiled  ")
            assert library_of(copy).is_file()
    assert run_alone(copy, "--json").returncode == 0  # and the bundle is still what was exported


def test_a_library_in_a_bundle_is_nobody_elses(copy, images):
    """Whoever takes a bundle from elsewhere runs none of its code, unless they run the bundle itself."""
    before = load_device(copy).encode(images.numpy())
    library_of(copy).write_bytes(b"whatever")
    assert load_device(copy).encode(images.numpy()) == before
    assert coding_ksymbols(WallClock(), 3, copy) > 0
    done = run_alone(copy)
    assert done.returncode == 2
    assert "does not load here" in done.stderr


@pytest.mark.parametrize("kind", ["raw int8", "Whole"])
def test_what_sends_no_code_has_no_coder_to_compile(bundles, kind, capsys):
    assert not (bundles[kind] / "native").exists()
    assert main(["compile", str(bundles[kind])]) == 2
    assert "brings no payload coder to compile" in capsys.readouterr().err


def test_check_fails_where_the_answers_are_others(copy, capsys):
    stored = dict(np.load(copy / "check.npz"))
    stored["logits"] = -stored["logits"]
    np.savez(copy / "check.npz", **stored)
    seal(copy)
    found = check(copy)
    assert not found.passed
    assert found.payloads_equal == 8
    assert main(["check", str(copy)]) == 4
    assert "does not answer as recorded" in capsys.readouterr().err


def test_in_an_environment_of_its_own(bundles, tmp_path):
    venv.create(tmp_path / "v", with_pip=True)
    python = str(tmp_path / "v" / "bin" / "python")
    pip = subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "1",
                          "--timeout", "20", *NEEDED], text=True, capture_output=True, check=False)
    if pip.returncode and any(sign in pip.stderr for sign in ("No matching distribution", "Connection", "Retrying")):
        pytest.skip(f"PyPI cannot be reached: {pip.stderr.strip().splitlines()[-1]}")
    assert pip.returncode == 0, pip.stderr
    absent = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    assert absent.returncode == 1
    done = run_alone(bundles["CodePruned"], "--json", python=python, code=None)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"]
