"""CURVE: who has the right keys is served, and nobody else."""

from __future__ import annotations

import shutil
import stat
import time

import pytest

from autosplit.runtime.standalone.errors import ConfigError
from autosplit.runtime.standalone.protocol.keys import DeviceKeys, EdgeKeys, make_keys
from autosplit.runtime.standalone.protocol.wire import Reason
from tests.runtime.standalone.fakes import asking, images, serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("keys")
    make_keys(made)
    make_keys(made, "porch")
    return made


@pytest.fixture
def server(folder):
    with serving(keys=EdgeKeys.load(folder)) as found:
        yield found


def test_the_right_key_is_served(folder, server):
    batch, classes = images(20)
    for name in ("device", "porch"):
        with asking(server, keys=DeviceKeys.load(folder, name)) as client:
            assert [(a.label, a.where) for a in client.infer(batch)] == [(c, "edge") for c in classes]
    server.stop()  # an answer is counted after it was sent
    assert server.stats.answers == 40


@pytest.mark.parametrize("which", ["none", "another", "other edge"])
def test_without_the_right_key_nobody_is_served(folder, server, tmp_path, which):
    keys = None
    if which != "none":
        make_keys(tmp_path)
        if which == "another":  # a device that the edge does not know, which knows the edge
            shutil.copy(folder / "edge.key", tmp_path / "edge.key")
        else:  # a device that the edge knows, which trusts another edge
            for name in ("device.key", "device.key_secret"):
                shutil.copy(folder / name, tmp_path / name)
        keys = DeviceKeys.load(tmp_path)
    with asking(server, keys=keys, timeout_ms=300) as client:
        answer = client.infer(images(1)[0][0])
        assert answer.where == "fallback"
        assert answer.reason in ("handshake", "timeout", "disconnected")
        if which == "another":
            assert answer.reason == "handshake"
        end = time.monotonic() + 30
        while not server.stats.refused[Reason.HANDSHAKE]:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert server.stats.frames == 0
    assert set(server.stats.refused) == {Reason.HANDSHAKE}


def test_a_device_with_keys_tells_an_edge_without_nothing(folder):
    with serving() as server, asking(server, keys=DeviceKeys.load(folder), timeout_ms=200) as client:
        assert client.infer(images(1)[0][0]).where == "fallback"
        assert server.stats.frames == 0


def test_with_keys_other_machines_may_connect(folder):
    with serving(keys=EdgeKeys.load(folder), bind="tcp://0.0.0.0:0") as server, \
            asking(server.endpoint.replace("0.0.0.0", "127.0.0.1"), keys=DeviceKeys.load(folder)) as client:
        assert client.infer(images(1)[0][0]).where == "edge"


def test_with_keys_the_rate_is_that_of_the_key(folder):
    image = images(1)[0][0]
    with serving(keys=EdgeKeys.load(folder), rate=1e-6, burst=2) as server:
        for name, places in (("device", ["edge", "fallback"]), ("porch", ["edge"])):
            for where in places:  # each client says HELLO under another name
                with asking(server, keys=DeviceKeys.load(folder, name), timeout_ms=100) as client:
                    assert client.infer(image).where == where


# --- files ----------------------------------------------------------------------------------------------------------


def test_files_and_who_may_read_them(tmp_path):
    made = make_keys(tmp_path / "new", "cam-1")
    assert [str(p.relative_to(tmp_path / "new")) for p in made] == [
        "edge.key", "edge.key_secret", "cam-1.key", "cam-1.key_secret", "allowed/cam-1.key"]
    for file in made:
        private = file.suffix == ".key_secret"
        assert stat.S_IMODE(file.stat().st_mode) == (0o600 if private else 0o644) or file.parent.name == "allowed"
        assert (b"secret-key" in file.read_bytes()) == private


def test_a_second_device_leaves_the_edge_as_it_is(folder, tmp_path):
    edge = (folder / "edge.key_secret").read_bytes()
    make_keys(folder, f"d{tmp_path.name.replace('.', '-')}")
    assert (folder / "edge.key_secret").read_bytes() == edge


@pytest.mark.parametrize("name", ["", "edge", "a/b", "..", "a b"])
def test_names_of_devices(tmp_path, name):
    with pytest.raises(ConfigError, match="device name"):
        make_keys(tmp_path, name)


def test_keys_are_not_overwritten(folder):
    with pytest.raises(ConfigError, match="is there already; name another device"):
        make_keys(folder)


def test_missing_and_damaged_keys(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"no key in .*edge.key_secret: .*; make keys with"):
        EdgeKeys.load(tmp_path)
    with pytest.raises(ConfigError, match=r"no key in .*gone.key_secret"):
        DeviceKeys.load(folder, "gone")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "allowed")
    with pytest.raises(ConfigError, match="nobody could be served"):
        EdgeKeys.load(tmp_path)
    (tmp_path / "edge.key").write_text("nonsense")
    with pytest.raises(ConfigError, match="holds no key"):
        DeviceKeys.load(tmp_path)
    (tmp_path / "edge.key").write_text('public-key = "tooshort"')
    with pytest.raises(ConfigError, match="holds a damaged key"):
        DeviceKeys.load(tmp_path)
    shutil.copy(folder / "edge.key", tmp_path / "device.key_secret")
    with pytest.raises(ConfigError, match="holds no secret key"):
        DeviceKeys.load(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write keys to"):
        make_keys(tmp_path / "file")
