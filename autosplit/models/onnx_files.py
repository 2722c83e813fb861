"""Networks as ONNX files, for programs without torch."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autosplit.core.errors import ConfigError
from autosplit.core.extras import install_command
from autosplit.core.opsets import OPSET, OPSETS
from autosplit.core.plugins import one_line
from autosplit.models.onnx_operators import OnnxNode

__all__ = ["require_onnx", "write_onnx"]

_PACKAGES = ("onnx", "onnxscript")
_LARGE_BYTES = 1 << 20
_SHOWN = 200  # characters of an error of torch


def require_onnx(*further: str) -> None:
    """Look for the packages before anything is computed.

    Args:
        further: Packages that are needed beside those that write the file.

    Raises:
        ConfigError: One is absent.
    """
    absent = [name for name in (*_PACKAGES, *further) if importlib.util.find_spec(name) is None]
    if absent:
        raise ConfigError(f"ONNX needs the package {absent[0]}: {install_command('deploy')}")


def write_onnx(network: nn.Module, example: Tensor, path: Path, names: tuple[str, str], opset: int = OPSET,
               translations: Mapping[Callable[..., Any], Callable[..., Any]] | None = None) -> list[OnnxNode]:
    """Write a network of one input and one output, the number of rows free.

    Args:
        network: In evaluation mode.
        example: An input of at least two rows, of the right type and shape.
        path: The file.
        names: Of the input and the output.
        opset: One of `autosplit.core.opsets.OPSETS`.
        translations: Functions that write ONNX operators (`onnxscript`), by the operator of torch that they stand for.

    Returns:
        The nodes of the file, in its order.

    Raises:
        ConfigError: The packages of the extra `deploy` are absent, or an operation has no form in this opset.
        OSError: The file cannot be written.
    """
    require_onnx()
    import onnxscript.optimizer

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # torch prints each of its steps
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network, (example,), input_names=[names[0]], output_names=[names[1]],
                dynamic_shapes=({0: torch.export.Dim("n")},), dynamo=True, external_data=False, verbose=False,
                opset_version=opset, custom_translation_table=dict(translations or {}), optimize=False)
            assert program is not None
            # torch would go through it twice: in seven networks the second time changed nothing
            onnxscript.optimizer.optimize(program.model, num_iterations=1)
    except Exception as e:  # of many types, each with pages of advice; the first cause says what it was
        cause: BaseException = e
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ConfigError(f"torch cannot export the network to ONNX: {one_line(cause)[:_SHOWN]}; "
                          "replace the operation that it names") from e
    finally:
        logger.setLevel(level)
    # torch notes a stack trace at every node: half of a small file, with paths of this machine
    model: Any = program.model
    values = [value for node in model.graph.all_nodes() for value in node.outputs]
    for holder in (model, model.graph, *model.graph.all_nodes(), *values, *model.graph.inputs,
                   *model.graph.initializers.values()):
        holder.metadata_props.clear()
    model.ir_version = OPSETS[opset].ir_version
    nodes = list(map(_node, model.graph))
    _save(model, path)
    return nodes


def _node(node: Any) -> OnnxNode:
    """A node (`onnxscript.ir.Node`) without its tensors."""
    read = [value for value in node.inputs if value is not None]
    constants = [value for value in read if value.const_value is not None]
    return OnnxNode(node.op_type, node.name or "", tuple(v.name for v in read if v.const_value is None),
                    tuple(v.name for v in node.outputs), tuple(int(v.const_value.size) for v in constants))


def _save(model: Any, path: Path) -> None:
    """Write a model (`onnxscript.ir.Model`) with its large weights one after the other.

    `onnx.save` needs 2.7 times their size beside them (a VGG-11). The file is the same message of Protocol Buffers,
    whose fields may stand in any order (https://protobuf.dev/programming-guides/encoding/).
    """
    from onnxscript import ir

    large = {name: value.const_value for name, value in model.graph.initializers.items()
             if value.const_value.nbytes > _LARGE_BYTES}
    for name in large:
        model.graph.initializers[name].const_value = ir.tensor([0.0], name=name)  # a stand-in, taken out below
    found: Any = ir.serde.serialize_model(model)
    kept = [tensor for tensor in found.graph.initializer if tensor.name not in large]
    del found.graph.initializer[:]
    found.graph.initializer.extend(kept)
    graph = found.graph.SerializeToString()
    found.ClearField("graph")
    weights = [(_before_weights(name, tensor), tensor) for name, tensor in large.items()]
    size = len(graph) + sum(len(before) + tensor.nbytes for before, tensor in weights)
    with path.open("wb") as file:
        file.write(found.SerializeToString() + _before(found, "graph", size) + graph)
        for before, tensor in weights:
            file.write(before)
            file.write(np.ascontiguousarray(tensor.numpy()).data)


def _before_weights(name: str, tensor: Any) -> bytes:
    """What stands before the numbers of a tensor (`onnxscript.ir.Tensor`) in a graph: all else that is said of it."""
    import onnx

    said = onnx.TensorProto(name=name, dims=list(tensor.shape.numpy()), data_type=tensor.dtype)
    inner: bytes = said.SerializeToString() + _before(said, "raw_data", tensor.nbytes)
    return _before(onnx.GraphProto(), "initializer", len(inner) + tensor.nbytes) + inner


def _before(message: Any, name: str, length: int) -> bytes:
    """What stands before the content of a field of bytes or of a message: its number, and the content's length."""
    found = bytearray([message.DESCRIPTOR.fields_by_name[name].number << 3 | 2])
    while length > 127:
        found.append(length & 127 | 128)
        length >>= 7
    found.append(length)
    return bytes(found)
