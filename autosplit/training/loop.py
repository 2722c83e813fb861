"""The one training loop: backbone, supernet and fine-tuning differ in the loss alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosplit.core.accelerator import Accelerator
from autosplit.data.augment import augment_batch
from autosplit.data.base import ImageDataset, Split, in_batches
from autosplit.models.inference import evaluation_mode, folded
from autosplit.training.memory import Parts
from autosplit.training.precision import autocast, gradient_scaler
from autosplit.training.scalars import log_scalar

__all__ = ["Batch", "Group", "Teacher", "accuracy", "batches", "distillation_loss", "logits_of", "parameter_groups",
           "steps_per_epoch", "train", "train_alone"]

_LIMIT_LR = 0.1  # of clipping limits, as a multiple of the network's
_RATE_LR = 0.03  # of what a rate in the loss is made of: steps are logarithms, so this is 3 % of them a step
_RATE_PARAMETERS = ("log_step", "entropy_model")

_LEAST_STEPS = 4  # below, the schedule of torch divides by zero
_EPOCHS_A_SEED = 100_003  # seeds of epochs, far apart for seeds that lie close

Memory = Callable[[], list[Tensor]]
"""Gives the optimisers' memory at the time of the call."""


class Group(NamedTuple):
    """Parameters that are trained alike.

    Attributes:
        parameters: The parameters.
        lr: Their peak learning rate.
        adaptive: Whether each has a pace of its own (Adam), for parameters whose gradients differ by orders of
            magnitude; else they are trained by SGD.
    """

    parameters: Sequence[nn.Parameter]
    lr: float
    adaptive: bool = False


@dataclass(frozen=True)
class Batch:
    """One step's data, on the accelerator.

    Attributes:
        pictures: uint8 images (N, C, H, W), augmented where the data set says so.
        images: The same as the network's input, normalised float.
        labels: int64 (N,).
        indices: Place of each image in the training part, int64 (N,).
        augmented: Whether the images differ from those stored.
    """

    pictures: Tensor
    images: Tensor
    labels: Tensor
    indices: Tensor
    augmented: bool

    def __len__(self) -> int:
        return len(self.labels)

    def parts(self, number: int) -> Iterator[Batch]:
        """The batch in so many parts, or as many as have two images."""
        size = max(2, -(-len(self) // number))
        starts = range(0, max(1, len(self) - 1), size)  # what would be a single image stays with the ones before it
        for start, end in zip(starts, [*starts[1:], len(self)], strict=True):
            pictures, images, labels, indices = (
                t[start:end] for t in (self.pictures, self.images, self.labels, self.indices))
            yield Batch(pictures, images, labels, indices, self.augmented)


def batches(data: ImageDataset, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
    """One epoch of the training part in random order; the last batch may be smaller, but never below two."""
    order = torch.randperm(len(data.train), generator=generator)
    for indices in in_batches(order, batch_size):
        if len(indices) < 2:
            continue  # batch norm has no variance of a single image
        # bytes are moved, and become floats there
        pictures, labels, moved = (data.moved(t) for t in (data.train.images[indices], data.train.labels[indices],
                                                           indices))
        if data.augment:
            pictures = augment_batch(pictures, generator)
        yield Batch(pictures, data.normalise(pictures), labels, moved, data.augment)


def train(
    data: ImageDataset,
    groups: Sequence[Group],
    loss: Callable[[Batch], Tensor],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    weight_decay: float = 5e-4,
    name: str = "training",
    on_step: Callable[[], None] = lambda: None,
    on_epoch: Callable[[int, Memory], bool] = lambda done, memory: True,  # noqa: ARG005
    done: int = 0,
    memory: Sequence[Tensor] | None = None,
) -> None:
    """Minimise a loss by SGD with Nesterov momentum under a one-cycle schedule (Smith 2018, arXiv 1803.09820).

    Args:
        data: The training part is used, augmented where the data set says so.
        groups: What is trained.
        loss: Loss of a batch; sets the mode of the networks it uses.
        epochs: Passes over the training part.
        batch_size: Images of a step.
        seed: Order and augmentation.
        weight_decay: L2 penalty.
        name: Of the curve of the loss in TensorBoard.
        on_step: Called after each step.
        on_epoch: Called with the number of epochs done and a function that gives the optimiser's memory; what it
            returns says whether to go on.
        done: Epochs that an interrupted call has done already. With the parameters and `memory` as they were then, the
            result is that of a call that was not interrupted.
        memory: The optimisers' memory after `done` epochs, as `on_epoch` was given it.
    """
    per_epoch = steps_per_epoch(data, batch_size)
    steps = max(_LEAST_STEPS, epochs * per_epoch)
    plain = [group for group in groups if not group.adaptive]
    clipped = [p for group in plain for p in group.parameters]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.SGD(
        [{"params": list(g.parameters), "lr": g.lr} for g in plain], momentum=0.9, nesterov=True,
        weight_decay=weight_decay)]
    if adaptive := [group for group in groups if group.adaptive]:
        optimisers.append(torch.optim.Adam([{"params": list(g.parameters), "lr": g.lr} for g in adaptive]))
    schedules = [torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [g["lr"] for g in optimiser.param_groups], total_steps=steps + 1, pct_start=0.25,
        cycle_momentum=isinstance(optimiser, torch.optim.SGD)) for optimiser in optimisers]
    _remember(optimisers, memory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch expects a step of the optimiser before each of the schedule
        for schedule in schedules * (done * per_epoch):
            schedule.step()

    descent, parts = _Descent(data.accelerator, optimisers, schedules, clipped, 5.0), Parts(data.accelerator)
    for epoch in range(done, epochs):
        # order, dropout and noise of its own for each epoch, so that training can go on from any of them
        generator = torch.Generator().manual_seed(seed * _EPOCHS_A_SEED + epoch)
        torch.manual_seed(seed * _EPOCHS_A_SEED + epoch)
        for number, batch in enumerate(batches(data, batch_size, generator)):
            value = parts.run(partial(_gradient, descent, loss, batch), len(batch), least=2)
            descent.step()
            log_scalar(f"{name}/loss", value, epoch * per_epoch + number)
            on_step()
        if not on_epoch(epoch + 1, lambda: [t.clone() for _, _, t in _memory(optimisers)]):
            break


def _gradient(descent: _Descent, loss: Callable[[Batch], Tensor], batch: Batch, parts: int) -> Tensor:
    """The loss of a batch that is taken in parts, its gradient with the parameters."""
    losses = [(partial(loss, part), len(part) / len(batch)) for part in batch.parts(parts)]
    return descent.gradient(losses)


def train_alone(
    parameters: Iterable[nn.Parameter], loss: Callable[[], Tensor], steps: int, lr: float, accelerator: Accelerator, *,
    weight_decay: float = 0.0, clip: float | None = None, on_step: Callable[[], None] = lambda: None,
) -> None:
    """Train something small beside the network, which starts from nothing: Adam, with a cosine schedule.

    Args:
        parameters: What is trained.
        loss: Of the next batch; called once a step.
        steps: How many.
        lr: Learning rate of the first step.
        accelerator: Where the loss is computed.
        weight_decay: As of AdamW.
        clip: Largest norm of the gradient; none by default.
        on_step: Called after each step.
    """
    trained = list(parameters)
    optimiser = torch.optim.AdamW(trained, lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    descent = _Descent(accelerator, [optimiser], [schedule], trained, clip)
    for _ in range(steps):
        descent.gradient([(loss, 1.0)])
        descent.step()
        on_step()


class _Descent:
    """Steps of optimisers down the gradient of a loss, in mixed precision.

    Args:
        accelerator: Where the loss is computed.
        optimisers: Of the parameters.
        schedules: Of their learning rates.
        clipped: Parameters whose gradient is clipped.
        clip: Its largest norm; `None` = it is not.
    """

    def __init__(
        self, accelerator: Accelerator, optimisers: Sequence[torch.optim.Optimizer],
        schedules: Sequence[torch.optim.lr_scheduler.LRScheduler], clipped: Sequence[nn.Parameter], clip: float | None,
    ) -> None:
        self._accelerator, self._optimisers, self._schedules = accelerator, optimisers, schedules
        self._clipped, self._clip = clipped, clip
        self._scaler = gradient_scaler(accelerator)

    def gradient(self, losses: Sequence[tuple[Callable[[], Tensor], float]]) -> Tensor:
        """Sum up losses, each with its weight, one after the other; their gradient is left with the parameters."""
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        total = []
        for loss, weight in losses:
            with autocast(self._accelerator):
                value = loss()
            value = value if weight == 1.0 else value * weight
            self._scaler.scale(value).backward()  # type: ignore[no-untyped-call]
            total.append(value.detach())
        return torch.stack(total).sum()

    def step(self) -> None:
        """Take a step down the gradient."""
        if self._clip is not None:
            for optimiser in self._optimisers:
                self._scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(self._clipped, self._clip)
        for optimiser, schedule in zip(self._optimisers, self._schedules, strict=True):
            self._scaler.step(optimiser)
            schedule.step()
        self._scaler.update()


def _memory(optimisers: Sequence[torch.optim.Optimizer]) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """What optimisers remember of each parameter: where it is kept, its name there, and the tensor."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            for p in group["params"]:
                names = ("momentum_buffer",) if isinstance(optimiser, torch.optim.SGD) else (
                    "step", "exp_avg", "exp_avg_sq")
                state = optimiser.state[p]
                for name in names:
                    found = state.get(name)
                    if found is None:  # a parameter that has had no gradient yet
                        found = torch.zeros(()) if name == "step" else torch.zeros_like(p)
                    yield state, name, found


def _remember(optimisers: Sequence[torch.optim.Optimizer], memory: Sequence[Tensor] | None) -> None:
    """Give optimisers the memory that `_memory` found in others."""
    places = list(_memory(optimisers))
    for (state, name, _), tensor in zip(places, memory or [], strict=bool(memory)):
        state[name] = tensor.clone()


def parameter_groups(
    rest: Iterable[nn.Parameter], codec: Iterable[tuple[str, nn.Parameter]], lr: float, codec_lr: float
) -> list[Group]:
    """Parameters as `train` wants them: the network, codecs, clipping limits, and what rates in the loss learn.

    Args:
        rest: Of the network without codecs.
        codec: Of codecs, by name.
        lr: Of the network.
        codec_lr: Of the codecs, as a multiple of it.
    """
    named = [(n, p) for n, p in codec if p.requires_grad]
    adaptive = {n for n, _ in named if any(part.startswith(_RATE_PARAMETERS) for part in n.split("."))}
    # the gradient of a clipping limit is summed over all values that share it, so it needs a rate of its own
    limits = {n for n, _ in named if n.endswith("limit")}
    groups = (
        Group(list(rest), lr),
        Group([p for n, p in named if n not in adaptive | limits], lr * codec_lr),
        Group([p for n, p in named if n in limits], lr * _LIMIT_LR),
        Group([p for n, p in named if n in adaptive], _RATE_LR, adaptive=True),
    )
    return [group for group in groups if group.parameters]


def steps_per_epoch(data: ImageDataset, batch_size: int) -> int:
    """Steps of one epoch of `train`."""
    full, rest = divmod(len(data.train), batch_size)
    return full + (rest >= 2)


class Teacher:
    """The untouched backbone's answers; computed once a picture where training does not change the pictures.

    Args:
        network: In evaluation mode; it must stay as it is.
        data: Its training part is what is taught.
    """

    def __init__(self, network: nn.Module, data: ImageDataset) -> None:
        self._backbone, self._data = network, data

    @cached_property
    def _network(self) -> nn.Module:
        return folded(self._backbone)  # a copy, which not everybody needs

    @cached_property
    def answers(self) -> Tensor:
        """Logits of the stored training images, (N, classes)."""
        return logits_of(self._network, self._data, self._data.train.images)

    def __call__(self, batch: Batch) -> Tensor:
        """Logits for a batch, (N, classes), float32 and without gradient."""
        if not batch.augmented:
            return self.answers[batch.indices]
        with torch.inference_mode():
            return self._network(batch.images).float().clone()  # type: ignore[no-any-return]


def distillation_loss(
    logits: Tensor, labels: Tensor, teacher: Tensor, temperature: float = 4.0, hard: float = 0.1
) -> Tensor:
    """Distance to the teacher's softened answer, and a little cross-entropy (Hinton et al. 2015, arXiv 1503.02531).

    Args:
        logits: (N, classes).
        labels: (N,).
        teacher: Logits of the untouched backbone, (N, classes).
        temperature: Softening of both.
        hard: Weight of the cross-entropy; the distillation has the rest.
    """
    logits = logits.float()
    softened, taught = F.log_softmax(logits / temperature, 1), F.log_softmax(teacher / temperature, 1)
    soft = F.kl_div(softened, taught, log_target=True, reduction="batchmean")
    # softening makes gradients smaller by the square of the temperature
    return (1 - hard) * temperature**2 * soft + hard * F.cross_entropy(logits, labels)


def logits_of(network: Callable[[Tensor], Tensor], data: ImageDataset, images: Tensor, most: int = 256) -> Tensor:
    """Logits (or features) of uint8 images (N, C, H, W), without gradients, in batches of at most so many images.

    They are left on the accelerator.
    """
    batch_size = min(most, data.images_at_once)

    def run(number: int) -> list[Tensor]:
        with torch.inference_mode():
            return [network(data.normalise(part)) for part in in_batches(images, -(-batch_size // number))]

    return torch.cat(Parts(data.accelerator).run(run, batch_size))  # out here, so that it is no inference tensor


def accuracy(network: nn.Module, data: ImageDataset, part: Split) -> float:
    """Top-1 accuracy in [0, 1] of a network in evaluation mode."""
    with evaluation_mode(network):
        hits = (logits_of(network, data, part.images).argmax(1) == data.moved(part.labels)).sum()
    return int(hits) / len(part)
