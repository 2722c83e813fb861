"""No file ends a command with a traceback: thousands of damaged and hostile ones of every kind that a command reads.

Each mutant ends with a documented exit code and one printable line, soon and without much memory (`running.faults`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import yaml

from autosplit.core.hashing import sha256_of_file
from autosplit.pipeline.context import SearchContext
from autosplit.runtime.export import export_bundle
from autosplit.runtime.standalone.bundle.manifest import MANIFEST, digest_of
from tests.fuzz.mutants import (
    Mutant,
    byte_mutants,
    cleared,
    csv_mutants,
    json_bytes,
    special_files,
    text_mutants,
    tree_mutants,
    yaml_bytes,
)
from tests.fuzz.running import autosplit, bundle, faults
from tests.synthetic import small_table

pytest.importorskip("onnxruntime", reason="an extra: pip install '.[deploy]'")

LEAST = 500
"""Mutants of each kind of file."""

CONFIGS = Path("autosplit/configs")
DECISION = ("--budget-ms", 100, "--among", 1)


class Fuzz:
    """Writes mutants over a file, one after the other, and runs a command on each."""

    def __init__(self) -> None:
        self.mutants, self.wrong = 0, []

    def try_all(self, file: Path, mutants: Iterable[Mutant], run: Callable[[], None],
                sealed: Callable[[], None] = lambda: None) -> None:
        """Try mutants of a file, which is as before afterwards.

        Args:
            file: The file.
            mutants: What is written in its place.
            run: The command.
            sealed: Makes the hashes that others keep of the file right, so that a reader gets beyond them.
        """
        before = file.read_bytes()
        faults(run)  # from now on everything is imported that the command needs
        try:
            for mutant in mutants:
                mutant.write(file)
                if file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 24:
                    sealed()
                wrong, stderr = faults(run)
                self.mutants += 1
                if wrong:
                    self.wrong.append((file.name, mutant.what, wrong, stderr[-300:]))
        finally:
            cleared(file).write_bytes(before)

    def check(self, least: int = LEAST) -> None:
        """Fail where a mutant did what it must not do."""
        assert not self.wrong, f"{len(self.wrong)} of {self.mutants} mutants: {self.wrong[:3]}"
        assert self.mutants >= least


@pytest.fixture(scope="module")
def place(world, tmp_path_factory):
    """Copies of a run and its policy that may be spoilt."""
    place = tmp_path_factory.mktemp("fuzz")
    (place / "run").mkdir()
    for name in ("best.json", "best.safetensors", "scenario.yaml", "ledger.jsonl"):
        shutil.copy(world.run / name, place / "run")
    shutil.copytree(world.run / "policy", place / "policy")
    return place


@pytest.fixture
def fuzz(world, monkeypatch):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(world.cache))
    # an export takes seconds, and here are hundreds of files; tests/pipeline/test_dry_run.py tries it
    monkeypatch.setattr("autosplit.pipeline.dry_run.try_deployments", lambda *args: None)
    return Fuzz()


def usual(content: bytes, seed: int, count: int) -> Iterable[Mutant]:
    """What is done to a file of any kind."""
    return chain(special_files(), text_mutants(content), byte_mutants(content, random.Random(seed), count))


def decide(place: Path, **instead: object) -> Callable[[], None]:
    options = {"policy": place / "policy", "device": "stm32l4r5", "channel": "ble-1m"} | instead
    return lambda: autosplit("decide", *chain(*((f"--{k}", v) for k, v in options.items())), *DECISION)


def test_results(place, fuzz):
    file = place / "run" / "best.json"
    data, rng = json.loads(file.read_bytes()), random.Random(0)
    fuzz.try_all(file, chain(usual(file.read_bytes(), 1, 150), tree_mutants(data, rng, 200, json_bytes)),
                 lambda: autosplit("show", place / "run"))
    # what rebuilds the network; the data are absent, so that none of it runs for long
    parts = ("deployment", "plan", "test", "scenario")
    fuzz.try_all(file, chain(*(tree_mutants(data, rng, 40, json_bytes, (part,)) for part in parts)),
                 lambda: autosplit("replay", file, "--data-root", place / "nowhere", "--quiet"))
    fuzz.check()


def test_scenarios(place, fuzz):
    file = place / "run" / "scenario.yaml"
    data, rng = yaml.safe_load(file.read_bytes()), random.Random(0)
    fuzz.try_all(file, chain(usual(file.read_bytes(), 2, 150), tree_mutants(data, rng, 330, yaml_bytes)),
                 lambda: autosplit("show", place / "run", "--json"))
    fuzz.try_all(file, chain(*(tree_mutants(data, rng, 6, yaml_bytes, (part,)) for part in (
        "space", "training", "search", "conditions", "image_size", "weights"))),
                 lambda: autosplit("search", "--dry-run", "--scenario", file, "--quiet"))
    fuzz.check()


def test_ledgers(place, fuzz):
    file = place / "run" / "ledger.jsonl"
    lines, rng = file.read_bytes().splitlines(keepends=True), random.Random(0)

    def with_line(number: int) -> Callable[[object], bytes]:
        return lambda data: b"".join([*lines[:number], json_bytes(data), b"\n", *lines[number + 1:]])

    changed = chain(*(tree_mutants(json.loads(lines[n]), rng, count, with_line(n)) for n, count in ((0, 80), (1, 220))))
    fuzz.try_all(file, chain(usual(file.read_bytes(), 3, 180), changed),
                 lambda: autosplit("show", place / "run", "--json"))
    fuzz.check()


def test_policies(place, fuzz):
    file = place / "policy" / "policy.json"
    fuzz.try_all(file, chain(usual(file.read_bytes(), 4, 60), tree_mutants(
        json.loads(file.read_bytes()), random.Random(0), 250, json_bytes)), decide(place))
    file = place / "policy" / "policy.safetensors"
    fuzz.try_all(file, usual(file.read_bytes(), 5, 150), decide(place))
    fuzz.check()


def test_profiles(place, fuzz):
    for option, name in (("device", "devices/stm32l4r5"), ("channel", "channels/5g"),
                         ("channel", "channels/ble-1m-bursty")):
        shutil.copy(CONFIGS / f"{name}.yaml", place / "own.yaml")
        file = place / "own.yaml"
        fuzz.try_all(file, chain(usual(file.read_bytes(), 6, 20), tree_mutants(
            yaml.safe_load(file.read_bytes()), random.Random(0), 120, yaml_bytes)), decide(place, **{option: file}))
    fuzz.check()


def test_traces(place, fuzz):
    rng, file, channel = random.Random(0), place / "walk.csv", place / "walk.yaml"
    file.write_text("time_s,rate_kbps\n" + "".join(f"{i / 2},{rng.randrange(500)}\n" for i in range(60)))
    data = yaml.safe_load((CONFIGS / "channels/ble-1m.yaml").read_bytes())
    del data["uplink_kbps"]
    channel.write_bytes(yaml_bytes(data | {"trace": {"file": file.name, "source": "made up"}}))
    content = file.read_bytes()
    fuzz.try_all(file, chain(usual(content, 7, 150), csv_mutants(content, rng, 330)), decide(place, channel=channel))
    fuzz.check()


def test_tables(place, fuzz):
    table, rng = place / "table.csv", random.Random(0)
    small_table().to_csv(table)
    record = json.loads(Path("results/tables/digits-m.json").read_bytes())

    def sealed(file: Path) -> Callable[[], None]:
        beside = place / f"{file.name.split('.')[0]}.json"
        return lambda: beside.write_bytes(json_bytes(record | {"sha256": sha256_of_file(file)})) and None

    def train(file: Path) -> Callable[[], None]:  # into a folder that cannot be made, so that no training begins
        return lambda: autosplit("train-policy", file, "--out", table / "policy", "--quiet")

    content = table.read_bytes()
    fuzz.try_all(table, chain(usual(content, 8, 60), csv_mutants(content, rng, 200)), train(table), sealed(table))
    packed = place / "packed.csv.gz"
    packed.write_bytes(gzip.compress(content))
    bomb = Mutant("a gigabyte of zeros, packed",
                  lambda path: path.write_bytes(4 * gzip.compress(bytes(1 << 28))) and None)
    fuzz.try_all(packed, chain(usual(packed.read_bytes(), 9, 60), [bomb]), train(packed), sealed(packed))
    sealed(table)()
    description = place / "table.json"
    fuzz.try_all(description, chain(usual(description.read_bytes(), 10, 20), tree_mutants(
        json.loads(description.read_bytes()), rng, 80, json_bytes)), train(table))
    fuzz.check()


@pytest.fixture(scope="module")
def bundles(prepared, tmp_path_factory):
    """A bundle with a code, whose every part is small."""
    folder = tmp_path_factory.mktemp("bundle") / "code"
    context = SearchContext(prepared)
    plan = next(p for p in context.evaluator.space.plans() if p.codec.kind == "code" and p.sparsity == 0.5)
    export_bundle(context.deployment(plan, "int8"), folder, images=prepared.data.test.images[:8],
                  class_names=prepared.data.class_names)
    return folder


def test_bundles(bundles, fuzz):
    manifest = bundles / MANIFEST
    data = json.loads(manifest.read_bytes())

    def sealed_bytes(changed: dict[str, object]) -> bytes:
        return json_bytes(changed | {"digest": digest_of(changed)} if isinstance(changed, dict) else changed)

    def check() -> None:
        bundle("check", bundles)

    rng = random.Random(0)
    fuzz.try_all(manifest, chain(usual(manifest.read_bytes(), 11, 60), tree_mutants(data, rng, 60, json_bytes),
                                 tree_mutants(data, rng, 200, sealed_bytes)), check)
    for name in ("check.npz", "tables.npy", "device.onnx", "edge.onnx"):
        part = bundles / name

        def sealed(name: str = name, part: Path = part) -> None:
            files = data["files"] | {name: sha256_of_file(part)}
            manifest.write_bytes(sealed_bytes({**data, "files": files}))

        fuzz.try_all(part, chain(special_files(), byte_mutants(part.read_bytes(), rng, 30)), check, sealed)
        manifest.write_bytes(json_bytes(data))
    image = bundles / "image.npy"
    np.save(image, np.zeros(data["image_shape"], np.uint8))
    fuzz.try_all(image, usual(image.read_bytes(), 12, 30), lambda: bundle("infer", bundles, image, "--edge", "x"))
    fuzz.check()


@pytest.mark.parametrize("lie", ["more classes", "one row", "two inputs", "weights in another file", "40 GB"])
def test_networks_that_lie(bundles, lie, tmp_path):
    """ONNX files that onnxruntime takes, with the right hash, in the place of the edge's."""
    onnx = pytest.importorskip("onnx")
    helper, floats, ints = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    folder = shutil.copytree(bundles, tmp_path / "bundle")
    given = onnx.load(folder / "edge.onnx").graph.input[0]
    classes = len(json.loads((folder / MANIFEST).read_bytes())["class_names"])
    size = [40 * 10**9 // 4] if lie == "40 GB" else [1 if lie == "one row" else 4, classes + (lie == "more classes")]
    tensor = helper.make_tensor("size", ints, [len(size)], size)
    if lie == "weights in another file":
        tensor = onnx.TensorProto(name="size", data_type=ints, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="../secret.bin")
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["answer"])]
    inputs = [given, helper.make_tensor_value_info("more", floats, [1])] if lie == "two inputs" else [given]
    graph = helper.make_graph(nodes, "lie", inputs, [helper.make_tensor_value_info("answer", floats, None)], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "edge.onnx").write_bytes(model.SerializeToString())
    data = json.loads((folder / MANIFEST).read_bytes())
    data["files"]["edge.onnx"] = sha256_of_file(folder / "edge.onnx")
    (folder / MANIFEST).write_bytes(json_bytes(data | {"digest": digest_of(data)}))
    wrong, stderr = faults(lambda: bundle("check", folder))
    assert not wrong, stderr
    assert "edge.onnx" in stderr


def test_weights(place, world, fuzz, tmp_path):
    weights, result = place / "run" / "best.safetensors", place / "run" / "best.json"
    data = json.loads(result.read_bytes())

    def sealed() -> None:
        data["deployment"]["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
        result.write_bytes(json_bytes(data))

    content = weights.read_bytes()
    fuzz.try_all(weights, chain(usual(content, 13, 150), _headers(content)),
                 lambda: autosplit("replay", result, "--data-root", place / "nowhere", "--quiet"), sealed)
    backbone = next((world.cache / "backbone").glob("*.safetensors"))
    own = tmp_path / "own.safetensors"
    shutil.copy(backbone, own)
    fuzz.try_all(own, chain(special_files(), byte_mutants(own.read_bytes(), random.Random(0), 20)), lambda: autosplit(
        "search", "--dry-run", "--scenario", world.root / "tiny.yaml", "--weights", own, "--quiet"))
    fuzz.check()


def _headers(content: bytes) -> Iterable[Mutant]:
    """A safetensors file whose header says something else: a length of eight bytes, then JSON."""
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8:8 + length]), content[8 + length:]

    def dump(changed: object) -> bytes:
        text = json_bytes(changed)
        return len(text).to_bytes(8, "little") + text + body

    return tree_mutants(header, random.Random(0), 300, dump)
