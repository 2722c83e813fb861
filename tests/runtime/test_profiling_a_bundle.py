"""`python -m coinference profile`: a bundle that times itself, here, as C, and by the log of a board."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from autosplit.core.cache import Cache
from autosplit.core.errors import BundleError, ConfigError
from autosplit.core.measurement import Workload
from autosplit.core.plan import OUTPUT, CodecSetting, Plan
from autosplit.core.profiles import DeviceProfile, load_profile
from autosplit.core.result import Result
from autosplit.core.scenario import for_machine, load_scenario
from autosplit.core.timings import read_timings
from autosplit.latency import load_latency_model
from autosplit.models.costs import operators, stage_cost
from autosplit.runtime.c.export import C_FOLDER
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.export import export_result
from autosplit.runtime.standalone.bundle.manifest import Manifest
from autosplit.runtime.standalone.compiling import compiler
from autosplit.runtime.standalone.options import ProfileOptions
from autosplit.runtime.standalone.profiling import clock as clocks
from autosplit.runtime.standalone.profiling.operators import C_STEPS, OPERATORS, OperatorTable
from autosplit.runtime.standalone.profiling.run import profile_bundle
from autosplit.runtime.standalone.protocol.wire import short_key
from tests.runs import invoke
from tests.runtime.c import emulated

for package in ("onnx", "onnxruntime"):
    pytest.importorskip(package, reason="an extra: pip install '.[deploy]'")
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler here")


@pytest.fixture(scope="module")
def bundle(runs, world, tmp_path_factory):
    """A pruned head with a code, and the whole network for when the edge is lost."""
    folder = tmp_path_factory.mktemp("profiled") / "bundle"
    export_result(runs["CodePruned"] / "best.json", folder, images=8, fallback=True, cache=Cache(world.cache),
                  target="c")
    return folder


@pytest.fixture(scope="module")
def deployment(runs):
    return Deployment.from_result(Result.load(runs["CodePruned"]))


@pytest.fixture(scope="module")
def table(bundle):
    return OperatorTable.load(bundle)


class SteadyClock:
    """Every call takes a millisecond."""

    processor_share = 0.875

    def call(self, action):
        action()
        return 1e-3


@pytest.fixture(scope="module")
def key(bundle):
    return short_key(Manifest.load(bundle).key).hex()


def log_of(table, key, ticks=lambda operator, share: 1200):
    """What a board prints on which every operator takes so many ticks, shared evenly among its steps."""
    owners = table.files[C_STEPS].owners
    steps = {number: sum(o == owner for o in owners.values()) for number, owner in owners.items()}
    lines = [f"step {number} {ticks(owners[number], steps[number])}" for number in owners]
    return "\n".join(["boot", f"bundle {key}", *lines, "payload 0 2400", "timed", "sleeping"]) + "\n"


def works_of(deployment):
    network, blueprint = deployment.network, deployment.blueprint
    return operators(network.head, blueprint.image_shape) + operators(network.encoder, blueprint.feature_shape)


def test_the_table_holds_the_operators_of_every_network(table, deployment):
    assert set(table.files) == {"device.onnx", "edge.onnx", "fallback.onnx", C_STEPS}
    kinds = [row[table.columns.index("kind")] for row in table.files["device.onnx"].rows]
    assert kinds == [work.kind for work in works_of(deployment)]
    assert len(table.files[C_STEPS].rows) == len(kinds) + len(table.files["fallback.onnx"].rows)
    for name, operators_ in table.files.items():
        weighted = {i for i, row in enumerate(operators_.rows) if row[table.columns.index("kind")] != "other"}
        assert weighted <= set(operators_.owners.values()), name


@pytest.mark.parametrize("side", ["device", "edge"])
def test_a_profile_adds_up_to_the_whole_and_a_search_takes_it(bundle, table, tmp_path, monkeypatch, side):
    monkeypatch.setattr(clocks, "ROUNDS", 1)
    out = tmp_path / "mine.yaml"
    made = profile_bundle(bundle, out, ProfileOptions(side=side, repeats=10, active_mw=900.0), clock=SteadyClock())
    files = ["device.onnx", "fallback.onnx"] if side == "device" else ["edge.onnx"]
    assert list(made.wholes_ms) == files
    device = load_profile(DeviceProfile, str(out))
    assert device.arithmetic == ("int8" if side == "device" else "fp32")
    assert device.timings.processor_share == 0.875
    assert (device.active_mw.value, device.idle_mw.assumption) == (900.0, True)
    assert Manifest.load(bundle).key in device.conv_mmacs.source
    timings = read_timings(device.timings.file, device.timings.sha256)
    assert {t.variant for t in timings} == set(files)
    for name in files:
        assert sum(t.time_ms for t in timings if t.variant == name) == pytest.approx(1.0, rel=1e-4)
        assert len([t for t in timings if t.variant == name]) == len(table.files[name].rows)
    scenario = load_scenario("default").replace(**{f"conditions.{side}": str(out)})
    assert for_machine(scenario).latency_model == "profiled"
    assert for_machine(scenario, {"latency_model"}).latency_model == "analytic"


def test_the_log_of_a_board(bundle, table, key, deployment, tmp_path):
    """Every operator takes 10 us at 120 MHz: the model finds that again for the plan itself."""
    log, out = tmp_path / "board.txt", tmp_path / "board.yaml"
    log.write_text(log_of(table, key, lambda owner, share: 1200 // share))
    made = profile_bundle(bundle, out, ProfileOptions(clock_mhz=120.0), log=log)
    assert set(made.wholes_ms) == {"c head", "c encoder", "c fallback"}
    assert sum(made.wholes_ms.values()) == pytest.approx(0.01 * len(table.files[C_STEPS].rows), rel=1e-3)
    device = load_profile(DeviceProfile, str(out))
    assert "a board at 120 MHz" in device.title
    symbols = np.prod(deployment.blueprint.code_shape)
    assert device.coding_ksymbols.value == pytest.approx(symbols / 20e-6 / 1e3, rel=1e-3)
    assert device.image_kpixels.assumption
    scenario = load_scenario("default").replace(**{"conditions.device": str(out)})
    head = stage_cost(deployment.network.head, deployment.blueprint.image_shape)
    work = Workload(plan=Plan(split=OUTPUT, codec=CodecSetting(kind="none")), device=head)
    found = load_latency_model("profiled").latency([work], [scenario.conditions]).device_ms[0, 0]
    assert found == pytest.approx(0.01 * head.operators, rel=0.02)


def test_steps_that_did_not_run_are_left_out(bundle, table, key, tmp_path):
    log, out = tmp_path / "board.txt", tmp_path / "board.yaml"
    own = len(table.files["device.onnx"].rows)
    log.write_text(log_of(table, key, lambda owner, share: 100 if 0 <= owner < own else "-"))
    assert profile_bundle(bundle, out, ProfileOptions(clock_mhz=1.0), log=log).operators == own


@pytest.mark.parametrize("change", [
    lambda text: text.replace("\n", "\r\n").encode(),
    lambda text: b"\xff\xfe\x00" + text.encode() * 2,
    lambda text: text.encode("utf-16"),
    lambda text: "".join(f"[12:00:01.123] {line}\n" for line in text.splitlines()).encode(),
])
def test_logs_as_they_come(bundle, table, key, tmp_path, change):
    log, out = tmp_path / "board.txt", tmp_path / "board.yaml"
    log.write_bytes(change(log_of(table, key)))
    assert profile_bundle(bundle, out, ProfileOptions(clock_mhz=1.0), log=log).operators == len(
        table.files[C_STEPS].rows)


def test_a_coder_that_was_not_timed_goes_by_the_layers(bundle, table, key, tmp_path):
    log, out = tmp_path / "board.txt", tmp_path / "board.yaml"
    log.write_text(log_of(table, key).replace("payload 0 2400", "payload 0 -"))
    made = profile_bundle(bundle, out, ProfileOptions(clock_mhz=1.0), log=log)
    assert made.machine.coding_ksymbols is None
    device = load_profile(DeviceProfile, str(out))
    timings = read_timings(device.timings.file, device.timings.sha256)
    macs_per_ms = sum(t.work.macs for t in timings) / sum(t.time_ms for t in timings)
    assert device.coding_ksymbols.assumption
    assert device.coding_ksymbols.value == pytest.approx(macs_per_ms / 200, rel=1e-3)


@needs_compiler
def test_the_c_sources_time_themselves(bundle, table, tmp_path):
    made = profile_bundle(bundle, tmp_path / "c.yaml", ProfileOptions(engine="c"))
    device = load_profile(DeviceProfile, str(tmp_path / "c.yaml"))
    assert made.operators == len(table.files[C_STEPS].rows)
    assert "autosplit's C" in device.title
    assert device.coding_ksymbols.value > 0
    copy = shutil.copytree(bundle / C_FOLDER, tmp_path / "c")
    done = subprocess.run(["make", "time"], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "timed"
    built = (copy / "libautosplit.a", "-O1"), (copy / "libautosplit.a", "-O0")
    sizes = set()
    for library, level in built:  # what was compiled otherwise is compiled again
        subprocess.run(["make", f"CFLAGS={level}"], cwd=copy, capture_output=True, check=True)
        sizes.add(library.stat().st_size)
    assert len(sizes) == 2


@pytest.mark.skipif(bool(emulated.MISSING), reason=f"not on this machine: {', '.join(emulated.MISSING)}")
def test_an_emulated_board_times_itself(bundle, table, tmp_path):
    """The counter of the emulator, a tick an instruction, stands for a board's cycles."""
    c = bundle / C_FOLDER
    text = emulated.run([c / n for n in ("network.c", "kernels.c", "payload.c", "time.c")], [c], tmp_path, "m4",
                        ("-O3", "-DAUTOSPLIT_TIMED", "-include", "board.h",
                         "-DAUTOSPLIT_TICKS=board_instructions()"))
    log, out = tmp_path / "board.txt", tmp_path / "board.yaml"
    log.write_text(text)
    made = profile_bundle(bundle, out, ProfileOptions(clock_mhz=120.0), log=log)
    assert made.operators == len(table.files[C_STEPS].rows)
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    macs = [int(r["rows"]) * int(r["columns"]) * int(r["kernel"]) * int(r["positions"]) for r in rows]
    largest = max(range(len(rows)), key=macs.__getitem__)
    instructions = float(rows[largest]["time_ms"]) * 120e3
    assert 0.5 < instructions / macs[largest] < 3, "a multiply-accumulate takes about one instruction"


def test_as_a_program_without_autosplit(bundle, tmp_path):
    """The bundle's own copy: what a device runs."""
    out = tmp_path / "mine.yaml"
    done = subprocess.run([sys.executable, "-m", "coinference", "profile", "--out", str(out), "--repeats", "10",
                           "--json"], cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["wholes_ms"].keys() == {"device.onnx", "fallback.onnx"}
    assert set(yaml.safe_load(out.read_text())) >= {"name", "title", "arithmetic", "timings", "coding_ksymbols"}
    shown = subprocess.run([sys.executable, "-m", "coinference", "profile", "--out", str(tmp_path / "mine.txt")],
                           cwd=bundle, capture_output=True, text=True, check=False)
    assert shown.returncode == 2
    assert "name a device profile NAME.yaml" in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_a_dry_run_of_a_search_on_the_timed_device(bundle, warm, tmp_path, monkeypatch):
    monkeypatch.setattr(clocks, "ROUNDS", 1)
    out = tmp_path / "mine.yaml"
    profile_bundle(bundle, out, ProfileOptions(repeats=10), clock=SteadyClock())
    shown = invoke("search", "--scenario", warm.root / "tiny.yaml", "--device", out, "--dry-run", "--json", "--quiet")
    assert shown.exit_code == 0, shown.stderr


class TestErrors:
    @pytest.mark.parametrize(("change", "message"), [
        (lambda text: "", "has no line such as bundle"),
        (lambda text: text.replace("bundle ", "bundle x"), "has no line such as bundle"),
        (lambda text: text + "bundle 00000000\n", "is of bundle 00000000, .*this one is"),
        (lambda text: text.replace("step 3 1200\n", ""), "has no line such as step 3 1234"),
        (lambda text: text.replace("step 3 1200", "step 3 12x0"), "has no line such as step 3 1234"),
        (lambda text: text.replace("step 3 1200", "step 3 -12"), "has no line such as step 3 1234"),
        (lambda text: text[:len(text) // 2], "has no line such as step"),
        (lambda text: text.replace("payload 0 2400", ""), "has no line such as payload 0 1234"),
        (lambda text: text.replace("step 3 1200", "step 3 4294967000"), "step 3 took 4294967000 ticks, as if the"),
        (lambda text: text.replace("1200", "0").replace("2400", "0"), "no step took a tick"),
    ])
    def test_logs_that_are_none(self, bundle, table, key, tmp_path, change, message):
        log = tmp_path / "board.txt"
        log.write_text(change(log_of(table, key)))
        with pytest.raises(ConfigError, match=message) as caught:
            profile_bundle(bundle, tmp_path / "board.yaml", ProfileOptions(clock_mhz=1.0), log=log)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "board.yaml").exists()

    def test_options_that_do_not_fit(self, bundle, tmp_path):
        out, log = tmp_path / "mine.yaml", tmp_path / "gone.txt"
        with pytest.raises(ConfigError, match="--ticks and --clock-mhz belong together"):
            profile_bundle(bundle, out, ProfileOptions(clock_mhz=1.0))
        with pytest.raises(ConfigError, match="no such file"):
            profile_bundle(bundle, out, ProfileOptions(clock_mhz=1.0), log=log)
        with pytest.raises(ConfigError, match="the edge of a bundle has no C sources"):
            profile_bundle(bundle, out, ProfileOptions(side="edge", engine="c"))
        (tmp_path / "file").touch()
        (tmp_path / "folder.yaml").mkdir()
        for name in ("file/mine.yaml", "folder.yaml"):  # before anything is timed
            with pytest.raises(ConfigError, match=r"cannot write .*; choose another file with --out"):
                profile_bundle(tmp_path / "no bundle", tmp_path / name, ProfileOptions())
        with pytest.raises(ConfigError, match="side must be device or edge, got 'both'"):
            ProfileOptions(side="both")
        with pytest.raises(ConfigError, match="clock_mhz must lie in"):
            ProfileOptions(clock_mhz=0.0)

    def test_a_bundle_without_c_sources_or_compiler(self, bundle, tmp_path, monkeypatch):
        from autosplit.runtime.standalone.profiling import compiled

        with pytest.raises(BundleError, match="export the bundle with --target c"):
            compiled.run_steps(tmp_path, "00000000", 1, 1)
        with pytest.raises(ConfigError, match="run on one thread; leave out --threads"):
            profile_bundle(bundle, tmp_path / "mine.yaml", ProfileOptions(engine="c", threads=2))
        monkeypatch.setattr(compiled, "compiler", lambda: None)
        with pytest.raises(ConfigError, match=r"no C compiler here .* --engine onnxruntime"):
            profile_bundle(bundle, tmp_path / "mine.yaml", ProfileOptions(engine="c"))

    def test_a_device_that_runs_nothing(self, runs, tmp_path):
        folder = tmp_path / "bundle"
        export_result(runs["JpegBody"] / "best.json", folder, images=8)
        with pytest.raises(BundleError, match=r"the device of this bundle runs no network .* --fallback"):
            profile_bundle(folder, tmp_path / "mine.yaml", ProfileOptions())
        with pytest.raises(BundleError, match="its device sends pictures, which are not written as C"):
            profile_bundle(folder, tmp_path / "mine.yaml", ProfileOptions(engine="c"))

    def test_a_plan_on_the_device_alone(self, runs, tmp_path):
        """Nothing is sent, so no coder can be timed; the C can."""
        folder = tmp_path / "bundle"
        export_result(runs["Whole"] / "best.json", folder, images=8, target="c")
        with pytest.raises(BundleError, match=r"the edge of this bundle runs no network .* time that side"):
            profile_bundle(folder, tmp_path / "mine.yaml", ProfileOptions(side="edge"))
        if compiler() is not None:
            made = profile_bundle(folder, tmp_path / "mine.yaml", ProfileOptions(engine="c"))
            assert list(made.wholes_ms) == ["c head"]
            assert load_profile(DeviceProfile, str(tmp_path / "mine.yaml")).coding_ksymbols.assumption

    @pytest.mark.parametrize(("damage", "message"), [
        (lambda t: t.update(columns=[]), "no"),
        (lambda t: t["files"]["device.onnx"]["owners"].update(extra=99), "names an operator that it does not have"),
        (lambda t: t.update(more=1), "lacks, or does not know, more"),
        (lambda t: t["files"].update(x=1), "files.x is no object"),
    ])
    def test_a_damaged_table_is_one_line(self, bundle, tmp_path, damage, message):
        copy = shutil.copytree(bundle, tmp_path / "bundle")
        data = json.loads((copy / OPERATORS).read_text())
        damage(data)
        (copy / OPERATORS).write_text(json.dumps(data))
        with pytest.raises(BundleError, match=message) as caught:
            OperatorTable.load(copy)
        assert "\n" not in str(caught.value)

    def test_a_table_that_was_altered_is_found_by_its_hash(self, bundle, tmp_path):
        copy = shutil.copytree(bundle, tmp_path / "bundle")
        (copy / OPERATORS).write_text("{}")
        with pytest.raises(BundleError, match=OPERATORS):
            profile_bundle(copy, tmp_path / "mine.yaml", ProfileOptions())
