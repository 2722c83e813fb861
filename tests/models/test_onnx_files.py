"""Networks as ONNX files: any number of rows, nothing of this machine, one line where it cannot be done."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autosplit.core.errors import ConfigError
from autosplit.models.onnx_files import LEAST_ONNXRUNTIME, check_onnx, require_onnx, write_onnx

pytest.importorskip("onnx", reason="an extra: pip install '.[deploy]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="an extra: pip install '.[deploy]'")


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_rows_are_free_and_nothing_is_said(tmp_path, capsys):
    torch.manual_seed(0)
    network, level = nn.Sequential(nn.Linear(3, 2), nn.Tanh()).eval(), logging.getLogger("torch.onnx").level
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_onnx(network, torch.zeros(2, 3), tmp_path / "n.onnx", ("given", "found"))
    assert capsys.readouterr() == ("", "")
    assert logging.getLogger("torch.onnx").level == level
    session = onnxruntime.InferenceSession(str(tmp_path / "n.onnx"), providers=["CPUExecutionProvider"])
    for rows in (1, 2, 7):
        given = torch.randn(rows, 3)
        (found,) = session.run(["found"], {"given": given.numpy()})
        np.testing.assert_allclose(found, network(given).detach().numpy(), atol=1e-6)
    assert b".py" not in (tmp_path / "n.onnx").read_bytes()


def test_what_cannot_be_exported_is_told_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match="torch cannot export the network to ONNX: ") as caught:
        write_onnx(Branching(), torch.zeros(2, 3), tmp_path / "n.onnx", ("x", "y"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert not (tmp_path / "n.onnx").exists()


def test_packages_that_are_absent_are_named():
    require_onnx("onnxruntime")
    with pytest.raises(ConfigError, match=r"needs the package no_such_package: pip install onnx onnxscript"):
        require_onnx("no_such_package")


def test_files_run_where_the_bundle_says(tmp_path):
    """IR version 10 and opset 20 are what onnxruntime 1.18 takes, which the README of a bundle asks for."""
    import onnx

    write_onnx(nn.Linear(3, 2).eval(), torch.zeros(2, 3), tmp_path / "n.onnx", ("given", "found"))
    model = onnx.load(tmp_path / "n.onnx")
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (10, [("", 20)])
    assert LEAST_ONNXRUNTIME == "1.18"


def test_what_has_no_form_is_found_early():
    class Bessel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x).flatten(1)

    with pytest.raises(ConfigError, match=r"cannot export the network to ONNX: .*bessel_j0"):
        check_onnx(Bessel().eval(), (3, 8, 8))
    check_onnx(nn.Flatten().eval(), (3, 8, 8))
