"""Time of an inference shared among the operators of its network."""

from __future__ import annotations

import numpy as np
import pytest

from autosplit.runtime.standalone.errors import ConfigError
from autosplit.runtime.standalone.profiling.kernels import attributed, kernel_seconds, owner_of

MOVED = [10.0, 30.0, 10.0, 20.0]
OWNERS = {"conv": 0, "relu": 0, "conv_1": 2, "add": -1, "pool": -1}


def test_every_second_of_an_inference_is_somebodys():
    kernels = {"relu_nchwc": 1e-5, "fused conv_1": 2e-5, "add": 3e-6, "ReorderOutput_token_4": 2e-6}
    seconds = attributed(MOVED, OWNERS, kernels, whole_s=35e-6 + 4e-6)
    assert seconds.sum() == pytest.approx(39e-6)
    assert seconds[[0, 2]] - 1e-6 == pytest.approx([1e-5, 2e-5])
    assert seconds[[1, 3]] - 1e-6 == pytest.approx([3e-6, 2e-6]), "what belongs to none, by what is moved"


def test_several_kernels_of_one_operator_add_up():
    kernels = {"conv": 1e-5, "relu": 2e-5, "conv_1": 1e-5}
    assert attributed(MOVED, OWNERS, kernels, 4e-5)[0] == pytest.approx(3e-5)


def test_a_profiler_that_takes_time_itself_is_not_believed():
    seconds = attributed(MOVED, OWNERS, {"conv": 3e-4, "conv_1": 1e-4}, whole_s=1e-4)
    assert seconds == pytest.approx([0.75e-4, 0, 0.25e-4, 0])


def test_kernels_of_unknown_names_are_an_error():
    with pytest.raises(ConfigError, match=r"only 1 of 2 layers are found among the kernels"):
        attributed(MOVED, OWNERS, {"conv": 1e-5, "another": 1e-5}, 1e-3)


@pytest.mark.parametrize(("kernel", "owner"), [
    ("conv", 0), ("relu_nchwc", 0), ("fused conv", 0), ("conv_1", 2), ("conv_1_nchwc", 2), ("conv_1_token_7", 2),
    ("add", -1), ("add_nchwc", -1), ("ReorderOutput", -1), ("ReorderOutput_token_2", -1), ("", -1),
])
def test_the_longest_known_name_counts(kernel, owner):
    assert owner_of(kernel, OWNERS) == owner


def test_a_node_that_belongs_to_none_is_not_taken_for_another():
    """`add_7` is a sum of its own, though `add` is an operator's."""
    assert owner_of("add_7", {"add": 3, "add_7": -1}) == -1


def test_kernels_of_onnxruntime(tmp_path):
    onnx = pytest.importorskip("onnx", reason="an extra: pip install '.[deploy]'")
    pytest.importorskip("onnxruntime", reason="an extra: pip install '.[deploy]'")
    node, real = onnx.helper.make_node, onnx.TensorProto.FLOAT
    tensor = onnx.helper.make_tensor_value_info
    nodes = [node("Erf", ["x"], ["y"], name="first"), node("Softmax", ["y"], ["z"], name="last")]
    graph = onnx.helper.make_graph(nodes, "net", [tensor("x", real, [1, 4096])], [tensor("z", real, [1, 4096])])
    path = tmp_path / "net.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9), path)
    found = kernel_seconds(str(path), {"x": np.ones((1, 4096), np.float32)}, 1, 20)
    assert found.keys() == {"first", "last"}
    assert all(0 < seconds < 1e-2 for seconds in found.values())
