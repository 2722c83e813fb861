"""Writing down what a network does while it runs: every torch function and every layer becomes a node of a graph.

`autosplit.models.tracing` uses it, and says what for.
"""

from __future__ import annotations

import contextlib
import operator
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn
from unittest import mock

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from autosplit.core.errors import TraceError
from autosplit.models.calls import (
    DROPOUTS,
    IN_PLACE,
    OPERATORS,
    SEVERAL,
    Apply,
    as_call,
    max_pool,
    out_of_place,
    set_item,
)
from autosplit.models.users import kind_of, logits_in, one_line, user_line

__all__ = ["Recorder", "Unrecordable"]

_LOOKED_THROUGH = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.TransformerEncoder, nn.TransformerEncoderLayer)
_READING = {"__bool__", "__int__", "__float__", "__index__", "__complex__", "__contains__", "item", "tolist", "numpy",
            "__array__", "is_nonzero", "equal", "allclose", "nonzero", "unique", "masked_select", "bincount"}
"""Functions that give Python a value of a tensor, or a tensor whose size depends on values."""

_COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge", "not_equal", "less", "less_equal", "greater", "greater_equal",
                "logical_and", "logical_or", "logical_not", "logical_xor"}
"""Methods that give truths, and in place ones and zeros of the tensor's own type."""

_ONLY_LAYOUT = {"contiguous", "to", "type", "float", "cpu", "type_as", "requires_grad_", "detach", "detach_"}


class Unrecordable(Exception):  # noqa: N818 (never leaves this file)
    """A call that no graph can hold; the module that it stands in is kept whole instead."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path = path


class Recorder(TorchFunctionMode):
    """Writes down what a network does while it runs.

    Every tensor that comes from the images carries the node it came from. A tensor that is changed in place gets
    another node; views of it that were taken before are marked, as a graph cannot say what happened to them.
    """

    def __init__(self, model: nn.Module, whole: set[str]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.added: dict[str, nn.Module] = {}
        self.constants: dict[str, Tensor] = {}
        self.replaced: dict[str, nn.Module] = {}
        self.model, self._whole = model, whole
        self._paths: dict[int, str] = {}
        for path, module in model.named_modules(remove_duplicate=True):
            self._paths[id(module)] = path
        self._stack: list[str] = [""]
        self._quiet = False
        self._named = {id(t): path for path, t in (*model.named_buffers(), *model.named_parameters())}
        self._attributes: dict[str, fx.Node] = {}
        self._kept: list[Tensor] = []  # constants, so that their identity stays theirs
        self._storages: dict[int, list[weakref.ref[Tensor]]] = {}

    # --- the run

    def record(self, images: Tensor) -> Recorder:
        """Run the network on images and record it; gives itself."""
        self._give(images, self.graph.placeholder("x"))
        name = kind_of(self.model)
        call = nn.Module.__call__
        own_gradient = next(vars(c)["apply"] for c in torch.autograd.Function.__mro__ if "apply" in vars(c))

        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return self._module(module, lambda: call(module, *args, **kwargs), args, kwargs)

        def applied(cls: type, *args: Any, **kwargs: Any) -> Any:
            return self._custom(cls, lambda: own_gradient.__get__(None, cls)(*args, **kwargs), args, kwargs)

        try:
            with mock.patch.object(nn.Module, "__call__", called), \
                    mock.patch.object(torch.autograd.Function, "apply", classmethod(applied)), self:
                result = self.model(images)
        except (TraceError, Unrecordable):
            raise
        except Exception as e:  # it ran before, so this is ours
            raise TraceError(f"{name} runs, but cannot be followed: {one_line(e)}{user_line(e)}; please report the "
                             "network to autosplit's authors") from e
        logits = logits_in(result, name)
        node = self._node(logits)
        if node is None:
            raise TraceError(f"the logits of {name} do not come from its images by torch functions")
        self.graph.output(node)
        return self

    # --- calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._quiet:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        given = _tensors((args, kwargs))
        if name in _READING or (name == "__getitem__" and any(t.dtype == torch.bool for t in given[1:])):
            self._refuse_reading(name, given)
        before = [(t, t._version) for t in given]
        result = func(*args, **kwargs)
        changed = [t for t, version in before if t._version != version]
        if changed:
            return self._changed(func, args, kwargs, changed, result)
        if name == "__getitem__" and isinstance(result, Tensor) and _shares(result, args[0]):
            result._autosplit_view = (args[0], args[1])  # type: ignore[attr-defined]
        if not _tensors(result) or (name in {"__set__", "__get__"} and getattr(func, "__self__", None) is None):
            return result
        if any(result is t for t in given):
            if name not in DROPOUTS or self._node(result) is None:
                return result
            result = result.view_as(result)
        if name in _ONLY_LAYOUT and any(t.data_ptr() == result.data_ptr() and t.shape == result.shape for t in given):
            self._give(result, self._need(given[0]))
            return result
        op, target, args, kwargs = as_call(func, args, kwargs, self.added)
        self._note(op, target, args, kwargs, result)
        return result

    def _module(self, module: nn.Module, run: Callable[[], Any], args: Any, kwargs: Any) -> Any:
        path = self._paths.get(id(module))
        if path is None or self._quiet:
            return run()
        given = _tensors((args, kwargs))
        if path in self._whole or (_is_layer(module) and path):
            before = [(t, t._version) for t in given]
            with self._silence():
                result = run()
            changed = [t for t, version in before if t._version != version]
            if isinstance(module, nn.AdaptiveMaxPool2d) and not module.return_indices:
                pool = max_pool(given[0].shape, result.shape)
                same = repr(self.replaced.setdefault(path, pool)) == repr(pool)
                self.replaced[path] = pool if same else module
            if len(_tensors(result)) == 1 and any(result is t for t in given) and not changed:
                with self._silence():
                    result = result.view_as(result)
            self._note("call_module", path, args, kwargs, result, within=path)
            for tensor in changed:
                self._rebind(tensor, self._need(result))
            return result
        self._stack.append(path)
        nodes = len(self.graph.nodes)
        result = run()
        self._stack.pop()
        if path and len(self.graph.nodes) == nodes and len(given) == 1 and result is given[0] and \
                not isinstance(module, _LOOKED_THROUGH) and self._node(result) is not None and \
                next(module.parameters(), None) is None:
            # nothing happened, as in stochastic depth, which does something in training
            with self._silence():
                result = result.view_as(result)
            self._note("call_module", path, args, kwargs, result, within=path)
        elif path and any(self._node(t) is not None for t in given) and any(
                self._node(t) is None and id(t) not in self._named and t.is_floating_point()
                for t in _tensors(result)):
            raise Unrecordable(path, f"module {path!r} returns something that does not come from torch functions")
        return result

    def _custom(self, cls: type, run: Callable[[], Any], args: Any, kwargs: Any) -> Any:
        """A function with a gradient of its own becomes a module, which keeps it."""
        plain = (Tensor, int, float, bool, str, type(None))
        given = _tensors((args, kwargs))
        if self._quiet or not given or not all(isinstance(a, plain) for a in tree_flatten((args, kwargs))[0]):
            return run()
        with self._silence():
            result = run()
        path = f"_function_{len(self.added)}"
        self.added[path] = Apply(cls)
        self._note("call_module", path, args, kwargs, result)
        return result

    def _changed(self, func: Any, args: Any, kwargs: Any, changed: list[Tensor], result: Any) -> Any:
        """A function that changed a tensor in place becomes one that gives the changed tensor."""
        name = getattr(func, "__name__", "")
        if self._node(changed[0]) is None and all(self._node(t) is None for t in _tensors((args, kwargs))):
            return result  # a constant in the making
        tensor = args[0] if args and isinstance(args[0], Tensor) else changed[0]
        if id(tensor) in self._named:
            self._refuse(f"{name} changes parameters or buffers of the network")
        if not all(_shares(t, tensor) for t in changed):  # one memory has one version
            self._refuse(f"{name} changes a tensor in place which is not its first argument")
        call: tuple[str, Any, Any, Any]
        if name == "__setitem__":
            call = "call_function", set_item, (tensor, args[1], args[2]), {}
        elif name in IN_PLACE:
            call = "call_function", OPERATORS[IN_PLACE[name]], args, kwargs
        elif name in {"zero_", "fill_", "copy_"}:
            value = 0.0 if name == "zero_" else args[1]
            call = "call_function", set_item, (tensor, Ellipsis, value), {}
        elif "inplace" in kwargs or any(a is True for a in args):
            call = "call_function", func, *out_of_place(args, kwargs)
        elif name.endswith("_") and not name.endswith("__") and hasattr(Tensor, name[:-1]):
            call = "call_method", name[:-1], args, kwargs
        elif name.endswith("_") and hasattr(torch.nn.functional, name[:-1]):
            call = "call_function", getattr(torch.nn.functional, name[:-1]), args, kwargs
        else:
            self._refuse(f"{name} changes a tensor in place in a way that no graph can hold")
        node = self._create(*call)
        if name.rstrip("_") in _COMPARISONS or any(t.dtype != tensor.dtype for t in _tensors((args, kwargs))):
            node = self._inherit(self.graph.call_method("to", (node, tensor.dtype)), node)  # in place it keeps its type
        self._rebind(tensor, node)
        if isinstance(result, Tensor) and result is not tensor:
            self._give(result, node)
        return result

    # --- nodes

    def _note(self, op: str, target: Any, args: Any, kwargs: Any, result: Any, within: str | None = None) -> None:
        """Write a call down and tie its results to it."""
        node = self._create(op, target, args, kwargs, within)
        self._tie(result, node)

    def _create(self, op: str, target: Any, args: Any, kwargs: Any, within: str | None = None) -> fx.Node:
        paths = [*self._stack, *([within] if within is not None and within != self._stack[-1] else [])]
        args, kwargs = self._argument(args), self._argument(kwargs)
        node = self.graph.create_node(op, target, args, kwargs)
        kinds = {p: type(self.model.get_submodule(p)) for p in paths if p}
        node.meta["nn_module_stack"] = {p: (p, kind) for p, kind in kinds.items()}
        return node

    def _tie(self, result: Any, node: fx.Node) -> None:
        if isinstance(result, Tensor):
            self._give(result, node)
        elif isinstance(result, (tuple, list)):
            node.meta[SEVERAL] = True
            for i, part in enumerate(result):
                if _tensors(part):
                    self._tie(part, self._inherit(self.graph.call_function(operator.getitem, (node, i)), node))
        elif isinstance(result, Mapping):
            node.meta[SEVERAL] = True
            for key, part in result.items():
                if _tensors(part):
                    self._tie(part, self._inherit(self.graph.call_function(operator.getitem, (node, key)), node))

    @staticmethod
    def _inherit(node: fx.Node, source: fx.Node) -> fx.Node:
        node.meta["nn_module_stack"] = source.meta.get("nn_module_stack", {})
        return node

    def _argument(self, value: Any) -> Any:
        """Arguments as a graph holds them: tensors as nodes, everything else as it is."""
        if isinstance(value, Tensor):
            return self._need(value)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return tuple(self._argument(v) for v in value)
        if isinstance(value, (tuple, list)):
            return type(value)(self._argument(v) for v in value) if type(value) in {tuple, list} else tuple(
                self._argument(v) for v in value)
        if isinstance(value, dict):
            return {k: self._argument(v) for k, v in value.items()}
        if isinstance(value, slice):
            return slice(*(self._argument(v) for v in (value.start, value.stop, value.step)))
        if value is None or value is Ellipsis or isinstance(
                value, (bool, int, float, complex, str, torch.dtype, torch.device, torch.memory_format, torch.layout)):
            return value
        raise Unrecordable(self._stack[-1], f"an argument of type {type(value).__name__}{user_line()}")

    def _need(self, tensor: Tensor) -> fx.Node:
        """The node of a tensor; parameters, buffers and constants get one when they are first used."""
        if getattr(tensor, "_autosplit_stale", False):
            self._refuse("a statement changes part of a tensor in place, and the tensor is used afterwards")
        node = self._node(tensor)
        if node is not None:
            return node
        path = self._named.get(id(tensor))
        if path is None:
            path = f"_constant_{len(self.constants)}"
            self.constants[path] = tensor.detach().clone()
            self._named[id(tensor)] = path
            self._kept.append(tensor)
        if path not in self._attributes:
            first = next(iter(self.graph.nodes))
            with self.graph.inserting_after(first):
                node = self.graph.create_node("get_attr", path)
            self._attributes[path] = node
        return self._attributes[path]

    def _node(self, tensor: Any) -> fx.Node | None:
        owner, node = getattr(tensor, "_autosplit_node", (None, None))
        return node if owner is self.graph else None

    def _give(self, tensor: Tensor, node: fx.Node) -> None:
        tensor._autosplit_node = (self.graph, node)  # type: ignore[attr-defined]
        if tensor.layout is torch.strided:
            self._storages.setdefault(tensor.untyped_storage().data_ptr(), []).append(weakref.ref(tensor))

    def _rebind(self, tensor: Tensor, node: fx.Node, parts: tuple[Tensor, ...] = ()) -> None:
        """A tensor was changed in place: it has another node now, and whoever shares its memory is out of date.

        Args:
            tensor: What was changed.
            node: Its value now.
            parts: Views of it whose own nodes hold that change already.
        """
        self._give(tensor, node)
        others = [r() for r in self._storages.get(tensor.untyped_storage().data_ptr(), [])]
        base, index = getattr(tensor, "_autosplit_view", (None, None))
        up_to_date = [*parts, tensor]
        while (above := getattr(up_to_date[-1], "_autosplit_view", None)) is not None:
            up_to_date.append(above[0])  # what it is a view of follows below
        for other in others:
            if other is None or any(other is t for t in up_to_date):
                continue
            if (other.shape, other.stride(), other.storage_offset()) == (
                    tensor.shape, tensor.stride(), tensor.storage_offset()):  # the same elements under another name
                self._give(other, node)
            elif _overlap(other, parts[-1] if parts else tensor):
                other._autosplit_stale = True  # type: ignore[attr-defined]
        if base is not None:  # `x[:, 0].zero_()` changes x
            with self._silence():
                node = self._create("call_function", set_item, (base, index, tensor), {})
                self._rebind(base, node, (tensor, *parts))

    @contextlib.contextmanager
    def _silence(self) -> Iterator[None]:
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    # --- refusals

    def _refuse_reading(self, name: str, given: list[Tensor]) -> None:
        for tensor in given:
            node = self._node(tensor)
            computed = node is not None and node.op != "get_attr"
            if computed and _reaches(node, "placeholder"):
                raise TraceError(f"{kind_of(self.model)} decides by values of a tensor, which differ from image to "
                                 f"image ({name}){user_line()}; use torch.where, or torch functions on the tensor")
            if _reaches(node, "get_attr") if computed else (
                    id(tensor) in self._named and isinstance(tensor, nn.Parameter)):
                self._refuse(f"{name} reads the value of a parameter, which training changes")

    def _refuse(self, reason: str) -> NoReturn:
        raise TraceError(f"{kind_of(self.model)} cannot be followed: {reason}{user_line()}; write it without "
                         "changing or reading tensors in place")


# --- small things ---------------------------------------------------------------------------------------------------


def _is_layer(module: nn.Module) -> bool:
    """Whether this is a layer of torch's own, one node of the graph."""
    return type(module).__module__.startswith(("torch.nn", "torch.ao.nn")) and not isinstance(module, _LOOKED_THROUGH)


def _tensors(value: Any) -> list[Tensor]:
    return [t for t in tree_flatten(value)[0] if isinstance(t, Tensor)]


def _shares(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in one memory."""
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors in one memory have an element in common."""
    size = one.untyped_storage().nbytes() // one.element_size()
    seen = torch.zeros(size, dtype=torch.bool)
    seen.as_strided(one.shape, one.stride(), one.storage_offset()).fill_(True)
    return bool(seen.as_strided(other.shape, other.stride(), other.storage_offset()).any())


def _reaches(node: fx.Node | None, op: str) -> bool:
    """Whether a node is computed of one with this operation."""
    stack, seen = [node] if node is not None else [], set[fx.Node]()
    while stack:
        current = stack.pop()
        if current.op == op:
            return True
        if current not in seen:
            seen.add(current)
            stack.extend(current.all_input_nodes)
    return False
