"""Which dimension of a feature holds its channels: transformers often keep it last, codecs take it first."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from autosplit.models.dispatch import Watch, name_of, watched

__all__ = ["channel_axes"]

_AXIS = "_autosplit_channel_axis"
_CHANNELS_LAST_RESULTS = {"mm", "addmm"}
_CHANNELS_SECOND_RESULTS = {"convolution", "_convolution", "native_group_norm"}
_SWAPS = {"transpose", "t", "swapaxes"}
_VIEWS = {"view", "_unsafe_view", "_reshape_alias", "reshape", "unsqueeze", "squeeze", "select", "alias"}


def channel_axes(graph: fx.GraphModule, shape: tuple[int, ...]) -> dict[fx.Node, int]:
    """The dimension of each node's tensor that holds the channels, the batch being dimension 0, where it is known.

    Convolutions have their channels in dimension 1, linear layers and layer norms in the last one; from there the
    dimension is followed through permutations, reshaping and everything that works on single elements.

    Args:
        graph: A traced network.
        shape: Shape of one input image without the batch dimension.
    """
    found: dict[fx.Node, int] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            out = super().run_node(n)
            if isinstance(out, Tensor) and hasattr(out, _AXIS):
                found[n] = getattr(out, _AXIS)
            return out

    with watched(graph, shape) as image, _Axes():
        setattr(image, _AXIS, 1)
        Recorder(graph).run(image)
    return found


class _Axes(Watch):
    """Notes the channels' dimension on every tensor."""

    def see(self, func: Any, args: tuple[Any, ...], given: list[Tensor], results: list[Tensor]) -> None:
        name, out = name_of(func), results[0]
        known = [t for t in given if hasattr(t, _AXIS)]
        # of the tensors that are combined, the one that is not broadcast
        source = next((t for t in known if t.shape == out.shape), known[0] if known else None)
        axis: int | None = None
        if name in _CHANNELS_LAST_RESULTS or (name == "native_layer_norm" and len(args[1]) == 1):
            axis = out.dim() - 1
        elif name in _CHANNELS_SECOND_RESULTS:
            axis = 1
        elif source is not None and name not in {"bmm", "baddbmm"}:
            axis = _followed(name, args, source, out)
        for t in results:
            if axis is not None and t.dim() == out.dim():
                setattr(t, _AXIS, axis)
            elif hasattr(t, _AXIS) and t is out:
                delattr(t, _AXIS)


def _followed(name: str, args: tuple[Any, ...], source: Tensor, out: Tensor) -> int | None:
    """Where a dimension is after an operator; `None` where it is lost."""
    axis: int = getattr(source, _AXIS)
    if name == "permute":
        return [int(d) % source.dim() for d in args[1]].index(axis)
    if name in _SWAPS:
        one, other = (int(d) % source.dim() for d in args[1:3]) if name != "t" else (0, 1)
        return {one: other, other: one}.get(axis, axis)
    if source.dim() == out.dim() and name not in _VIEWS:
        return axis
    # a dimension is the same one where as many elements lie before it and it is as long
    before, size = source.shape[:axis].numel(), source.shape[axis]
    return next((i for i in range(out.dim()) if out.shape[i] == size and out.shape[:i].numel() == before), None)
