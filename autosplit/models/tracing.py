"""From a user's network to a graph of its operations, by watching it run.

The network runs on a few random images, and every call of a torch function and of a layer is written down as a node of
a `torch.fx` graph. So whatever Python decides on the way is decided by Python: defaults of `forward`, assertions and
loops over shapes, `isinstance`, objects that a Hugging Face network returns. Only one thing must not be decided once
and for all, the size of the batch; so the network runs on batches of two sizes, and numbers that differ between the
two runs are written as multiples of the batch.

What would make the graph another function than the network is refused, with the user's line in the message: a value
that is read from a tensor (`if x.mean() > 0`), a statement that changes a tensor which is used elsewhere, results that
do not come from torch. At the end graph and network are compared on other images.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm

from autosplit.core.errors import TraceError
from autosplit.models.inference import evaluation_mode
from autosplit.models.recorder import Recorder, Unrecordable
from autosplit.models.users import kind_of, logits_in, one_line, user_line

__all__ = ["BATCH", "as_graph", "check_kind", "fresh_copy", "trace"]

_log = logging.getLogger(__name__)

BATCH = "batch"
"""Key of `Node.meta`: the node is a multiple of the batch's size (0: the device), and holds nothing of the images."""

_BATCHES = (2, 4)
_CHECKED = 3  # images that graph and network are compared on
_CLOSE = 1e-4  # of the largest logit: in-place operations of some layers round differently

_CONTAINERS = {nn.Sequential, nn.ModuleList, nn.ModuleDict}


def trace(model: nn.Module, shape: tuple[int, ...]) -> fx.GraphModule:
    """The graph of a classifier; the network itself is left as it was.

    Every layer of `torch.nn` becomes one node, modules of the user's are looked into. In-place operations become
    out-of-place ones with the same effect, so that a feature that was handed to a tail stays as it was; `view` becomes
    `reshape`, as features may be stored with their channels last. Functional dropout and batch norm become layers, so
    that they know training from evaluation. A module that is the identity in evaluation mode (stochastic depth) stays
    a module. Of what `forward` returns the logits are taken: a tensor, or what is called `logits` in a dict or object.

    Args:
        model: A network that takes one batch of images; its parameters are copied.
        shape: Shape of one image without the batch dimension. Sizes are fixed to it, but for the batch's.

    Returns:
        An independent graph module in the mode (training or evaluation) of `model`. `meta["containers"]` holds the
        paths of modules that are looked through for blocks, `meta["softmax"]` whether a softmax at the end was left
        out.

    Raises:
        TraceError: The network does not run on such images, is of a kind that has no graph (TorchScript, compiled,
            quantised, exported), gives something else than logits, or cannot be followed; the message names the line.
    """
    model = _unwrapped(model)
    check_kind(model)
    model = _without_parametrisations(model)
    _check_answer(model, shape)
    graph = _recorded(model, shape)
    _check_same(model, graph, shape)
    graph.train(model.training)
    return graph


def as_graph(module: nn.Module) -> fx.GraphModule:
    """The graph of a module of our own that takes one tensor, whose shape nobody knows: by symbolic tracing.

    Raises:
        TraceError: It has control flow that depends on its input.
    """
    if isinstance(module, fx.GraphModule):
        return copy.deepcopy(module)
    module = copy.deepcopy(module)
    for layer in module.modules():
        if hasattr(layer, "inplace"):
            setattr(layer, "inplace", False)  # noqa: B010 (a plain assignment is not typed on Module)
    try:
        graph = fx.Tracer().trace(module)
    except Exception as e:
        raise TraceError(f"torch.fx cannot trace {kind_of(module)}: {one_line(e)}; remove control flow that depends "
                         "on tensor values") from e
    for node in graph.nodes:
        if node.kwargs.get("inplace") is True:
            node.kwargs = {**node.kwargs, "inplace": False}
    return fx.GraphModule(module, graph, class_name=type(module).__name__)


# --- what is taken --------------------------------------------------------------------------------------------------


def _unwrapped(model: nn.Module) -> nn.Module:
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    return model


def _without_parametrisations(model: nn.Module) -> nn.Module:
    """The network, or a copy whose weights are what weight norm, spectral norm and the like make of theirs.

    Such a weight is computed anew in every call, so that no channel of it could be removed.
    """
    def norms(module: nn.Module) -> list[Any]:
        return [hook for hook in module._forward_pre_hooks.values()
                if type(hook).__name__ in {"WeightNorm", "SpectralNorm"}]

    if not any(parametrize.is_parametrized(m) or norms(m) for m in model.modules()):
        return model
    model = fresh_copy(model).train(model.training)
    for module in model.modules():
        for hook in norms(module):
            remove: Any = remove_weight_norm if type(hook).__name__ == "WeightNorm" else remove_spectral_norm
            remove(module, hook.name)
        if parametrize.is_parametrized(module):  # not by torch's own function: it changes a class that copies share
            found = {name: getattr(module, name).detach().clone()
                     for name in module.parametrizations}  # type: ignore[union-attr]
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            for name, value in found.items():
                module.register_parameter(name, nn.Parameter(value))
    _log.warning("%s: weight norm and other parametrisations are replaced by the weights that they give now",
                 kind_of(model))
    return model


def fresh_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode; some networks keep what they computed in it until they are trained on.

    Raises:
        TraceError: It cannot be copied.
    """
    # hooks, such as those of weight norm, leave what they computed last in a layer, with a history that has no copy
    computed: dict[int, Any] = {id(t): t.detach().clone() for m in model.modules() for t in vars(m).values()
                                if isinstance(t, Tensor) and not t.is_leaf}
    try:
        return copy.deepcopy(model, computed).train().eval()
    except Exception as e:
        raise TraceError(f"{kind_of(model)} cannot be copied: {one_line(e)}; hand over a network that "
                         "`copy.deepcopy` takes, without hooks that hold tensors") from e


def check_kind(model: nn.Module) -> None:
    """Refuse by name what runs, but has no layers that could be cut, pruned and trained.

    Raises:
        TraceError: TorchScript, compiled, quantised, exported, or without values.
    """
    name = kind_of(model)
    for path, module in model.named_modules():
        where = f"{name}, in module {path!r}," if path else name
        kind = type(module)
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(f"{where} is TorchScript, which cannot be cut and pruned; hand over the nn.Module that it "
                             "was made from")
        if kind.__name__ == "OptimizedModule" and hasattr(module, "_orig_mod"):
            raise TraceError(f"{where} was compiled by torch.compile; hand over the module before that "
                             "(`model._orig_mod`)")
        if kind.__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized",
                                       "torch.nn.intrinsic.quantized")) and "FloatFunctional" not in kind.__name__:
            raise TraceError(f"{where} is quantised ({kind.__name__}); hand over the network in floating point, "
                             "autosplit quantises it itself")
    if isinstance(model, fx.GraphModule) and any(
            isinstance(n.target, torch._ops.OpOverload) for n in model.graph.nodes):
        raise TraceError(f"{name} comes from torch.export, which keeps operators and no layers; hand over the "
                         "nn.Module that was exported")
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise TraceError(f"{name} has no values: {path!r} is a meta tensor; build it on a device that holds them")


def _check_answer(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Let the network answer two images, without looking into it."""
    try:
        ours = fresh_copy(model)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            result = ours(_images(2, shape))
    except TraceError:
        raise
    except Exception as e:  # anything the user's forward raises
        if isinstance(e, TypeError) and "required positional argument" in str(e):
            raise TraceError(f"{kind_of(model)} needs more than a batch of images: {one_line(e)}; autosplit needs a "
                             "network of one input") from e
        raise TraceError(f"the network does not run on images of shape {shape}: {one_line(e)}{user_line(e)}") from e
    _check_finite(logits_in(result, kind_of(model)), kind_of(model), shape)


def _check_finite(logits: Tensor, name: str, shape: tuple[int, ...]) -> None:
    if not bool(logits.isfinite().all()):
        raise TraceError(f"{name} gives values that are not finite for random images of shape {shape}; look for NaN in "
                         "its weights")


def _check_same(model: nn.Module, graph: fx.GraphModule, shape: tuple[int, ...]) -> None:
    """Compare network and graph on images, all together and one at a time."""
    images = torch.randn(_CHECKED, *shape, generator=torch.Generator().manual_seed(3))
    name = kind_of(model)
    found = _answers(fresh_copy(model), graph, images, name)
    _check_finite(found["expected"], name, shape)
    if len(set(_differing(found)) - {"again"}) > 0:
        # networks with random weights can make much of the last digit: what is left with twice as many digits counts
        with contextlib.suppress(RuntimeError):  # some have float32 written into them
            found = _answers(fresh_copy(model).double(), copy.deepcopy(graph).double(), images.double(), name)
    for other in _differing(found):
        raise TraceError({
            "again": f"{name} answers the same images differently from one time to the next, in evaluation mode too; "
                     "draw random numbers in training mode only",
            "alone": f"{name} answers an image differently alone and beside others, in evaluation mode; make the "
                     "answer for an image depend on that image only",
            "graph": f"{name} computes something that cannot be followed: its graph gives other logits; use torch "
                     "functions on the images all the way, not NumPy or values kept from one call to the next"}[other])


def _answers(model: nn.Module, graph: fx.GraphModule, images: Tensor, name: str) -> dict[str, Tensor]:
    """Logits of the network, of the same again, for one image at a time, and of its graph."""
    with evaluation_mode(graph), torch.no_grad(), torch.random.fork_rng(devices=[]):
        expected = logits_in(model(images.clone()), name)
        torch.manual_seed(1)
        again = logits_in(model(images.clone()), name)
        alone = torch.cat([logits_in(model(image.clone()), name) for image in torch.split(images, 1)])
        found = graph(images.clone())
        if graph.meta["softmax"]:
            found = found.softmax(-1)
    return {"expected": expected, "again": again, "alone": alone, "graph": found}


def _differing(answers: dict[str, Tensor]) -> list[str]:
    """Which answers are not those of the network, but for rounding."""
    expected = answers["expected"]
    close = _CLOSE * float(expected.abs().max().clamp(min=1e-6))
    return [which for which, other in answers.items()
            if other.shape != expected.shape or not bool(((other - expected).abs() <= close).all())]


# --- recording ------------------------------------------------------------------------------------------------------


def _recorded(model: nn.Module, shape: tuple[int, ...]) -> fx.GraphModule:
    """Record a network; modules that cannot be looked into are kept whole, innermost first."""
    whole: set[str] = set()
    name = kind_of(model)
    while True:
        try:
            first, second = (_run(model, whole, _images(batch, shape)) for batch in _BATCHES)
            break
        except Unrecordable as e:
            if not e.path or e.path in whole:
                raise TraceError(f"{name} cannot be followed: {e}") from e
            whole.add(e.path)
    graph, ours = _Merger(first, second, name).merged(), first.model
    for path, module in first.added.items():
        ours.register_module(path, module)
    for path, constant in first.constants.items():
        ours.register_buffer(path, constant)
    for path, module in first.replaced.items():
        parent, _, leaf = path.rpartition(".")
        setattr(ours.get_submodule(parent), leaf, module)
    for path, module in ours.named_modules():
        if path not in whole and getattr(module, "inplace", False) is True:
            module.inplace = False
    _free_device(graph)
    softmax = _without_softmax(graph, ours, name)
    graph.lint()
    traced = fx.GraphModule(ours, graph, class_name=type(model).__name__)
    # a GraphModule rebuilds every inner module as a plain one, so what was a mere container is noted here
    traced.meta["containers"] = {p for p, m in model.named_modules() if type(m) in _CONTAINERS} | _wrappers(model)
    traced.meta["softmax"] = softmax
    if whole:
        _log.warning("%s: kept whole, without split points or prunable channels inside: %s", name,
                     ", ".join(sorted(whole)))
    return traced


_MAKERS = {torch.arange, torch.linspace, torch.logspace, torch.zeros, torch.ones, torch.full, torch.eye, torch.empty,
           torch.tensor, torch.tril_indices, torch.triu_indices}
"""Functions that make tensors out of nothing."""


def _free_device(graph: fx.Graph) -> None:
    """Let tensors that the network makes lie where its input does."""
    image, found = next(iter(graph.nodes)), None
    for node in list(graph.nodes):
        made = node.op == "call_function" and node.target in _MAKERS and "device" not in node.kwargs
        if not made and not isinstance(node.kwargs.get("device"), torch.device):
            continue
        if found is None:
            with graph.inserting_after(image):
                found = graph.call_function(getattr, (image, "device"))
            found.meta[BATCH] = 0
        node.kwargs = {**node.kwargs, "device": found}


def _without_softmax(graph: fx.Graph, model: nn.Module, name: str) -> bool:
    """Take a softmax off the end, where there is one: what comes before it are the logits, with the same answers."""
    output = next(n for n in graph.nodes if n.op == "output")
    last = output.args[0]
    kind = ""
    if last.op == "call_module":
        kind = type(model.get_submodule(str(last.target))).__name__
    elif last.op in {"call_function", "call_method"}:
        kind = last.target if isinstance(last.target, str) else getattr(last.target, "__name__", "")
    if found := kind.lower() == "softmax":
        output.args = (last.all_input_nodes[0],)
        graph.erase_node(last)
        _log.warning("%s ends in a softmax, which is left out: logits are trained, and the answers are the same", name)
    return found


def _run(model: nn.Module, whole: set[str], images: Tensor) -> Recorder:
    """One run, of a copy."""
    ours = fresh_copy(model)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return Recorder(ours, whole).record(images)


def _images(batch: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))


def _wrappers(model: nn.Module) -> set[str]:
    """Paths of modules that hold nearly the whole network, as `self.net = resnet18()` does."""
    layers = [path for path, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None]
    return {path for path, m in model.named_modules() if path and any(True for _ in m.children())
            and sum(layer.startswith(f"{path}.") for layer in layers) >= 0.8 * len(layers)}


# --- two runs, one graph --------------------------------------------------------------------------------------------


class _Merger:
    """One graph of two runs with batches of different size, in which the size is a number of the graph.

    Args:
        first: Recorded with `_BATCHES[0]` images; its graph is changed.
        second: Recorded with `_BATCHES[1]`.
        name: Of the network.
    """

    def __init__(self, first: Recorder, second: Recorder, name: str) -> None:
        self.graph, self._first, self._second, self._name = first.graph, first, second, name
        self._size: fx.Node | None = None

    def merged(self) -> fx.Graph:
        """The graph of the first run; numbers that are others in the second become multiples of the batch's size."""
        ones, twos = list(self.graph.nodes), list(self._second.graph.nodes)
        if [(n.op, n.target) for n in ones] != [(n.op, n.target) for n in twos]:
            raise self._depends("it does something else")
        for path, constant in self._first.constants.items():
            other = self._second.constants.get(path)
            if other is None or other.shape != constant.shape or not torch.equal(other, constant):
                raise TraceError(f"{self._name} uses a tensor that differs from batch to batch and does not come from "
                                 "torch functions; use torch functions on the images all the way, not NumPy")
        for one, two in zip(ones, twos, strict=True):
            if one.op in {"call_function", "call_method", "call_module"}:
                one.args = self._joined(one.args, two.args, one)
                one.kwargs = self._joined(one.kwargs, two.kwargs, one)
        self.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in {"placeholder", "output"})
        return self.graph

    def _joined(self, one: Any, two: Any, node: fx.Node) -> Any:
        if isinstance(one, (tuple, list)) and isinstance(two, (tuple, list)) and len(two) == len(one):
            return type(one)(self._joined(a, b, node) for a, b in zip(one, two, strict=True))
        if isinstance(one, dict):
            return {key: self._joined(value, two[key], node) for key, value in one.items()}
        if isinstance(one, slice):
            return slice(*(self._joined(getattr(one, k), getattr(two, k), node) for k in ("start", "stop", "step")))
        if isinstance(one, fx.Node) or one == two:
            return one
        if isinstance(one, int) and isinstance(two, int):
            factor, rest = divmod(one, _BATCHES[0])
            if not rest and two == factor * _BATCHES[1]:
                return self._multiple(factor, node)
        raise self._depends(f"it uses {one} and {two} at node {node.name!r}")

    def _multiple(self, factor: int, node: fx.Node) -> fx.Node:
        if self._size is None:
            image = next(iter(self.graph.nodes))
            with self.graph.inserting_after(image):
                self._size = self.graph.call_method("size", (image, 0))
            self._size.meta[BATCH] = 1
        if factor == 1:
            return self._size
        with self.graph.inserting_before(node):
            found = self.graph.call_function(operator.mul, (self._size, factor))
        found.meta[BATCH] = factor
        return found

    def _depends(self, how: str) -> TraceError:
        return TraceError(f"{self._name} depends on the size of the batch: for {_BATCHES[0]} and for {_BATCHES[1]} "
                          f"images {how}; make what it does for an image independent of the others")
