"""`serve` and `infer`, as `python -m coinference` and as `autosplit` offer them."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from autosplit.cli import infer as infer_cli
from autosplit.cli import serve as serve_cli
from autosplit.core.extras import install_command
from autosplit.runtime.standalone import __main__ as program
from autosplit.runtime.standalone import commands
from autosplit.runtime.standalone.device.client import ClientOptions
from autosplit.runtime.standalone.edge.server import ServerOptions
from autosplit.runtime.standalone.errors import AutosplitError
from tests.runs import failure, invoke
from tests.runtime.standalone import fakes
from tests.runtime.standalone.fakes import CLASSES, LOOPBACK, asking, images, serving

ROOT = Path(__file__).parents[3]
SERVE = """
import sys
from types import ModuleType
from tests.runtime.standalone.fakes import FakeEdge
bundles = ModuleType("autosplit.runtime.standalone.bundle")
bundles.load_edge = lambda folder, threads, provider: FakeEdge()
sys.modules[bundles.__name__] = bundles
from autosplit.cli import main
main()
"""


def coinference(*words):
    """Run as `python -m coinference` does."""
    given = program.command_line().parse_args([str(w) for w in words])
    return given.command(given)


@pytest.fixture
def pictures(tmp_path):
    """Three images in two .npy files, and their classes."""
    batch, classes = images(3)
    folder = tmp_path / "pictures"
    folder.mkdir()
    np.save(folder / "a.npy", batch[0])
    np.save(folder / "b.npy", batch[1:])
    (folder / "notes.txt").write_text("no image")
    return folder, classes


# --- infer ----------------------------------------------------------------------------------------------------------


def test_infer_for_people(bundle, pictures):
    folder, classes = pictures
    with serving() as server:
        shown = invoke("infer", bundle, folder / "b.npy", folder / "a.npy", "--edge", server.endpoint)
    assert shown.exit_code == 0, shown.stderr
    lines = shown.stdout.splitlines()
    names = [f"{folder}/b.npy[0]", f"{folder}/b.npy[1]", f"{folder}/a.npy"]
    for line, name, label in zip(lines, names, [classes[1], classes[2], classes[0]], strict=True):
        assert re.fullmatch(rf"{re.escape(name)}  {label}  edge  9 B  \d+\.\d ms: encode .*, local 0\.0", line)
    assert shown.stderr == ""


@pytest.mark.parametrize("run", ["autosplit", "coinference"])
def test_infer_json(bundle, pictures, run, capsys):
    folder, classes = pictures
    with serving() as server:
        words = ("infer", bundle, folder, "--edge", server.endpoint, "--json", "--logits")
        text = invoke(*words).stdout if run == "autosplit" else (coinference(*words), capsys.readouterr().out)[1]
    found = [json.loads(line) for line in text.splitlines()]
    assert [f["label"] for f in found] == classes
    assert {f["where"] for f in found} == {"edge"}
    assert [int(np.argmax(f["logits"])) for f in found] == classes
    for f in found:
        assert f["ms"]["total"] == pytest.approx(sum(f["ms"].values()) - f["ms"]["total"], abs=0.01)


def test_infer_names_classes(bundle, pictures, monkeypatch):
    folder, classes = pictures
    plain = fakes.manifest

    def named(key="a bundle"):
        return SimpleNamespace(**{**vars(plain(key)), "class_names": tuple(f"bird {i}" for i in range(CLASSES))})

    monkeypatch.setattr(fakes, "manifest", named)
    with serving() as server:
        words = ("infer", bundle, folder, "--edge", server.endpoint)
        text, found = invoke(*words).stdout, [json.loads(x) for x in invoke(*words, "--json").stdout.splitlines()]
    assert [re.search(r"bird \d", line).group() for line in text.splitlines()] == [f"bird {i}" for i in classes]
    assert [(f["label"], f["class_name"]) for f in found] == [(i, f"bird {i}") for i in classes]


def test_infer_many_images_of_one_file(bundle, tmp_path):
    batch, classes = images(150)
    np.save(tmp_path / "many.npy", batch)
    with serving() as server:
        text = invoke("infer", bundle, tmp_path / "many.npy", "--edge", server.endpoint, "--json").stdout
    found = [json.loads(line) for line in text.splitlines()]
    assert [f["label"] for f in found] == classes
    assert [f["image"] for f in found] == [f"{tmp_path}/many.npy[{i}]" for i in range(150)]


def test_infer_without_an_edge_falls_back_and_says_so_once(bundle, pictures):
    folder, classes = pictures
    shown = invoke("infer", bundle, folder, "--edge", "127.0.0.1:9", "--timeout-ms", 50, "--json")
    assert shown.exit_code == 0
    assert [json.loads(line)["label"] for line in shown.stdout.splitlines()] == classes
    assert shown.stderr == "warning: no answer from the edge (timeout); the device answers itself\n"


def test_infer_without_edge_and_fallback(bundle, pictures):
    said = failure("infer", bundle, pictures[0], "--edge", "127.0.0.1:9", "--timeout-ms", 50, "--no-fallback")
    assert "no answer from the edge tcp://127.0.0.1:9 (timeout)" in said


@pytest.mark.parametrize(("words", "said"), [
    (("--edge", "nowhere"), "write HOST:PORT"), ((), "--edge HOST:PORT"),
    (("--edge", "a:1", "--timeout-ms", 0), "timeout_ms must lie in"),
    (("--edge", "a:1", "--keys", "gone"), "no key in gone/device.key_secret"),
])
def test_infer_of_wrong_options(bundle, pictures, words, said):
    assert said in failure("infer", bundle, pictures[0], *words)


def test_infer_of_nothing(bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no image file" in failure("infer", bundle, tmp_path / "empty", "--edge", "a:1")
    assert "no bundle" in failure("infer", tmp_path / "gone", tmp_path, "--edge", "a:1")


# --- serve ----------------------------------------------------------------------------------------------------------


def serving_process(*words):
    """`autosplit serve` with a fake edge, as a process of its own."""
    return subprocess.Popen([sys.executable, "-c", SERVE, *map(str, words)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, cwd=ROOT,
                            env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_until_a_signal(tmp_path, number):
    process = serving_process("serve", tmp_path, "--bind", LOOPBACK, "--metrics-port", "0", "--json")
    try:
        first = json.loads(process.stdout.readline())
        assert first["keys"] is False
        batch, classes = images(20)
        with asking(first["serving"]) as client:
            assert [a.label for a in client.infer(batch)] == classes
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert json.loads(out)["answers"] == 20
    assert re.fullmatch(r"metrics at http://127\.0\.0\.1:\d+/metrics\n", err)


def test_serve_for_people(bundle, monkeypatch):
    ended = threading.Event()
    ended.set()  # as if a signal came at once
    monkeypatch.setattr(commands, "ended_by_signal", lambda: contextlib.nullcontext(ended))
    shown = invoke("serve", bundle, "--bind", LOOPBACK)
    assert shown.exit_code == 0, shown.stderr
    assert re.fullmatch(rf"serving {bundle} at tcp://127\.0\.0\.1:\d+, without keys\n"
                        r"0 answers in 0 batches; refused: none\n", shown.stdout)


def test_two_servers_on_one_port(bundle):
    with serving() as server:
        said = failure("serve", bundle, "--bind", server.endpoint)
    assert said == (f"cannot listen on {server.endpoint}: Address already in use; choose another address or port with "
                    "--bind")


@pytest.mark.parametrize(("words", "said"), [
    (("--bind", "tcp://0.0.0.0:5555"), "there are no keys"), (("--bind", "nonsense"), "is no address to bind to"),
    (("--queue", 0), "queue must lie in"), (("--keys", "gone"), "no key in gone/edge.key_secret"),
])
def test_serve_of_wrong_options(bundle, words, said):
    assert said in failure("serve", bundle, *words)


def test_serve_of_nothing(bundle, tmp_path):
    assert "name the bundle to serve" in failure("serve")
    assert "no bundle" in failure("serve", tmp_path / "gone")
    with pytest.raises(AutosplitError, match="name the bundle"):
        coinference("serve")


@pytest.mark.parametrize("words", [("serve", "bundle"), ("infer", "bundle", "image.png")])
def test_without_pyzmq(words):
    code = "import sys; sys.modules['zmq'] = None; from autosplit.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: serving needs the package zmq: {install_command('deploy')}\n"


def test_inside_a_bundle_serve_means_that_one(monkeypatch, tmp_path):
    meant = []
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setattr(program, "HOME", tmp_path)
    monkeypatch.setattr(commands, "serve", lambda bundle, *_, **__: meant.append(bundle))
    assert coinference("serve") == coinference("serve", "another") == 0
    assert meant == [tmp_path, Path("another")]


def test_make_keys(tmp_path):
    shown = invoke("serve", "--make-keys", tmp_path / "keys", "--device", "cam")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[-1] == str(tmp_path / "keys" / "allowed" / "cam.key")
    assert "the device needs edge.key, cam.key and cam.key_secret" in shown.stderr
    assert coinference("serve", "--make-keys", tmp_path / "keys", "--device", "cam2") == 0
    assert "is there already" in failure("serve", "--make-keys", tmp_path / "keys", "--device", "cam")


def test_the_worked_example(bundle, pictures, tmp_path):
    """The commands of docs/deploying.md, with another port and on one machine."""
    folder, classes = pictures
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    page = (ROOT / "docs" / "deploying.md").read_text()
    lines = re.findall(r"^autosplit .*$", page[page.index("## Two machines"):page.index("### When the edge")], re.M)
    here = {"keys": tmp_path / "keys", "bundle": bundle, "photos/": folder, "tcp://0.0.0.0:5555": f"tcp://0.0.0.0:{port}",
            "192.168.1.20:5555": f"127.0.0.1:{port}", "9464": "0", "200": "20000"}
    make, serve, infer = ([here.get(word, word) for word in shlex.split(line, comments=True)[1:]] for line in lines)
    assert invoke(*make).exit_code == 0
    server = serving_process(*serve)
    try:
        assert server.stdout.readline() == f"serving {bundle} at tcp://0.0.0.0:{port}\n"
        shown = invoke(*infer, "--json")
    finally:
        server.kill()
        server.communicate()
    assert shown.exit_code == 0, shown.stderr
    assert [(f["label"], f["where"]) for f in map(json.loads, shown.stdout.splitlines())] == [
        (label, "edge") for label in classes]


# --- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "kind"), [(serve_cli, ServerOptions), (infer_cli, ClientOptions)])
def test_both_command_lines_have_the_defaults_of_the_options(module, kind):
    given = inspect.signature(module.command).parameters
    assert {f.name: given[f.name].default for f in fields(kind)} == {f.name: f.default for f in fields(kind)}
