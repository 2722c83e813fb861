"""Networks as ONNX files: any number of rows, nothing of this machine, one line where it cannot be done."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autosplit.core.errors import ConfigError
from autosplit.core.opsets import OPSETS
from autosplit.models.onnx_files import require_onnx, write_onnx

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


@pytest.mark.parametrize("opset", OPSETS)
def test_files_are_of_the_opset_asked_for(tmp_path, opset):
    """With the IR version that the first onnx with this opset wrote, so that an older onnxruntime takes them."""
    import onnx

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten()).eval()
    given = torch.randn(2, 3, 5, 5)
    write_onnx(network, given, tmp_path / "n.onnx", ("given", "found"), opset)
    model = onnx.load(tmp_path / "n.onnx")
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (
        OPSETS[opset].ir_version, [("", opset)])
    assert model.ir_version == next(  # what onnx itself says of its releases
        row[1] for row in onnx.helper.VERSION_TABLE if row[2] == opset)
    (found,) = onnxruntime.InferenceSession(str(tmp_path / "n.onnx")).run(["found"], {"given": given.numpy()})
    np.testing.assert_allclose(found, network(given).detach().numpy(), atol=1e-5)


def test_large_weights_are_written_as_any_others(tmp_path):
    """One after the other into the file, which is the message that the library reads and would write."""
    import onnx

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(700, 600), nn.Linear(600, 500), nn.Linear(500, 3)).eval()  # 1.7, 1.2 MB and less
    write_onnx(network, torch.zeros(2, 700), tmp_path / "n.onnx", ("x", "y"))
    model = onnx.load(tmp_path / "n.onnx")
    onnx.checker.check_model(model, full_check=True)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert [t.name for t in model.graph.initializer][-2:] == ["0.weight", "1.weight"]
    for name, parameter in network.named_parameters():
        np.testing.assert_array_equal(weights[name], parameter.detach().numpy())
    assert (tmp_path / "n.onnx").stat().st_size == len(model.SerializeToString())
