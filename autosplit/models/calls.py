"""Calls of torch functions as nodes of a graph, and the layers that stand for some of them.

A function that has to know training from evaluation, the sizes that it had, or its own gradient becomes a layer.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["DROPOUTS", "IN_PLACE", "OPERATORS", "SEVERAL", "Apply", "RegionMaxPool", "as_call", "max_pool",
           "out_of_place", "set_item"]

DROPOUTS: dict[str, Callable[[float], nn.Module]] = {
    "dropout": nn.Dropout, "dropout1d": nn.Dropout1d, "dropout2d": nn.Dropout2d, "dropout3d": nn.Dropout3d,
    "alpha_dropout": nn.AlphaDropout, "feature_alpha_dropout": nn.FeatureAlphaDropout,
}
"""Functions that do something in training alone, and the layers that know when that is."""

_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift",
               "rshift")
OPERATORS: dict[str, Callable[..., Any]] = {
    f"__{name}__": getattr(operator, f"__{name}__")
    for name in (*_ARITHMETIC, "neg", "pos", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge", "getitem")
} | {"__div__": operator.truediv, "__idiv__": operator.truediv}
"""Python's operators by the names of their methods."""

IN_PLACE = {f"__i{name}__": f"__{name}__" for name in _ARITHMETIC}
"""Methods of `+=` and its like, and those of the operators that give the same value."""

_REFLECTED = {f"__r{name}__": f"__{name}__" for name in _ARITHMETIC}
_SAME_UNDER_ANOTHER_NAME = {"add", "sub", "mul", "matmul"}
_RESHAPES = {"view": "reshape", "view_as": "reshape_as"}


SEVERAL = "several"
"""Key of a node's `meta` where its value is a tuple or a mapping and no tensor."""


class Apply(nn.Module):
    """A `torch.autograd.Function` as a layer, which keeps its gradient.

    Args:
        function: The class.
    """

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def extra_repr(self) -> str:
        """Name of the function."""
        return str(self.function.__qualname__)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the function gives."""
        return self.function.apply(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Apply:
        return Apply(self.function)


class RegionMaxPool(nn.Module):
    """Adaptive max pooling to a size that does not divide the input's, of operations that have a form in ONNX.

    Args:
        rows: Start and end of each row of regions.
        columns: Of each column.
    """

    def __init__(self, rows: list[tuple[int, int]], columns: list[tuple[int, int]]) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def extra_repr(self) -> str:
        """The regions."""
        return f"rows={self.rows}, columns={self.columns}"

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, rows, columns)."""
        x = torch.stack([x[:, :, a:b].amax(2) for a, b in self.rows], 2)
        return torch.stack([x[:, :, :, a:b].amax(3) for a, b in self.columns], 3)


def max_pool(before: torch.Size, after: torch.Size) -> nn.Module:
    """Adaptive max pooling at the sizes that it had."""
    (height, width), (rows, columns) = before[-2:], after[-2:]
    if height % rows == 0 and width % columns == 0:
        return nn.MaxPool2d((height // rows, width // columns))
    return RegionMaxPool(*([(i * size // parts, -(-(i + 1) * size // parts)) for i in range(parts)]
                           for size, parts in ((height, rows), (width, columns))))


def set_item(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """A copy in which some elements have other values."""
    result = tensor.clone()
    result[index] = value
    return result


def as_call(func: Any, args: Any, kwargs: Any, added: dict[str, nn.Module]) -> tuple[str, Any, Any, Any]:
    """A torch function as a node's operation, target and arguments.

    Args:
        func: As `__torch_function__` gets it.
        args: Its arguments.
        kwargs: Further ones by name.
        added: Layers that stand for functions, by path; a new one is put there.
    """
    name = getattr(func, "__name__", "")
    if name == "__get__":  # properties: x.T, x.mT, x.real
        return "call_function", getattr, (args[0], func.__self__.__name__), {}
    if name in _REFLECTED:
        return "call_function", OPERATORS[_REFLECTED[name]], (args[1], args[0], *args[2:]), kwargs
    if name == "rsub":
        return "call_function", operator.sub, (args[1], args[0]), kwargs
    is_method = getattr(Tensor, name, None) is func or getattr(torch._C.TensorBase, name, None) is func
    if name in OPERATORS:
        return "call_function", OPERATORS[name], args, kwargs
    if func is getattr(Tensor, f"__{name}__", None):  # which torch has wrapped under the method's name: x ** 2
        return "call_function", getattr(operator, name), args, kwargs
    if is_method:
        if name in _SAME_UNDER_ANOTHER_NAME and not kwargs and len(args) == 2:
            return "call_function", getattr(operator, name), args, kwargs
        if name in _RESHAPES and not (len(args) == 2 and isinstance(args[1], torch.dtype)):
            name = _RESHAPES[name]
        return "call_method", name, args, kwargs
    layer = _as_layer(name, args, kwargs)
    if layer is not None:
        path = f"_layer_{len(added)}"
        added[path] = layer[1].eval()
        return "call_module", path, (layer[0],), {}
    if "inplace" in kwargs:
        args, kwargs = out_of_place(args, kwargs)
    return "call_function", func, args, kwargs


def _as_layer(name: str, args: Any, kwargs: Any) -> tuple[Tensor, nn.Module] | None:
    """A function that has to know training from evaluation, or sizes, as a layer with its input; `None` for others."""
    if name in DROPOUTS:
        given = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
        return None if given.get("training", True) else (given["input"], DROPOUTS[name](float(given.get("p", 0.5))))
    if name == "adaptive_max_pool2d" and len(args) == 2 and not kwargs:
        return args[0], max_pool(args[0].shape, torch.nn.functional.adaptive_max_pool2d(*args).shape)
    return _as_norm(args, kwargs) if name == "batch_norm" else None


def _as_norm(args: Any, kwargs: Any) -> tuple[Tensor, nn.Module] | None:
    """A functional batch norm as a layer that holds the same parameters; `None` where it is something else."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given = dict(zip(names, args, strict=False)) | kwargs
    x, mean, var = given["input"], given.get("running_mean"), given.get("running_var")
    weight, bias = given.get("weight"), given.get("bias")
    affine = isinstance(weight, nn.Parameter) and isinstance(bias, nn.Parameter)
    plain = affine or (weight is None and bias is None)
    if given.get("training", False) or mean is None or var is None or not plain or x.dim() not in {2, 4}:
        return None
    kind = nn.BatchNorm2d if x.dim() == 4 else nn.BatchNorm1d
    norm = kind(mean.numel(), float(given.get("eps", 1e-5)), float(given.get("momentum", 0.1) or 0.1), affine=affine)
    if affine:
        norm.weight, norm.bias = weight, bias
    norm.running_mean, norm.running_var = mean, var
    return x, norm


def out_of_place(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Arguments of a function of torch.nn.functional without its `inplace`."""
    if "inplace" in kwargs:
        return args, {**kwargs, "inplace": False}
    # relu6(x, True), hardtanh(x, 0, 6, True): the only flag among them
    return tuple(False if a is True else a for a in args), kwargs
