"""One odd network through every stage of the matrix."""

from __future__ import annotations

import pandas as pd

from benchmarks import networks


def test_a_network_goes_through_everything(tmp_path, monkeypatch, one_thread):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(tmp_path / "cache"))
    found = networks.stages("odd:multiplier", tmp_path)
    assert found["trace"] == "19 (6)"
    assert found["prune"] == "5"
    assert [found[stage] for stage in ("split", "search", "replay", "export")] == ["yes"] * 4


def test_a_stage_that_fails_is_told_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "backbone_of", lambda name, folder: f"{tmp_path / 'net.py'}:net")
    (tmp_path / "net.py").write_text("from torch import nn\ndef net(num_classes):\n    return nn.Flatten()\n")
    found = networks.stages("odd:flat", tmp_path)
    assert found["trace"].startswith("PluginError: backbone")
    assert found["dry run"].startswith("PluginError: backbone")
    assert "search" not in found


def test_a_table_is_continued(tmp_path, monkeypatch):
    pd.DataFrame([{"network": name, "trace": "1 (1)", "prune": "3"} for name in networks.NETWORKS]).to_csv(
        tmp_path / "networks.csv", index=False)
    monkeypatch.setattr("sys.argv", ["networks.py", "--out", str(tmp_path)])
    networks.main()
    assert f'"networks": {len(networks.NETWORKS)}' in (tmp_path / "networks.json").read_text()
