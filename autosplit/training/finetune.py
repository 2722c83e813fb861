"""Fine-tuning of a plan (F2, F3): hard-pruned, with weights of its own, taught by the untouched backbone.

After each epoch the network is scored on validation images and the best weights are kept; training ends when `patience`
epochs bring nothing better. The state after each epoch can be kept in a cache, and a fine-tuning that was killed goes
on from there with the result of one that was not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autosplit.compression.entropy_model import RateQuantiser
from autosplit.compression.network import SplitNetwork, recalibrate
from autosplit.core.cache import Cache
from autosplit.core.scenario import TrainingSettings
from autosplit.data.base import ImageDataset, in_batches
from autosplit.training.loop import (
    Batch,
    Group,
    Memory,
    Teacher,
    accuracy,
    distillation_loss,
    parameter_groups,
    steps_per_epoch,
    train,
)
from autosplit.training.scalars import log_scalar

__all__ = ["CODEC_LR", "Finetuning", "finetune", "statistics_images", "train_keeping_best"]

CODEC_LR = 2.0
"""Learning rate of codecs, as a multiple of the rest's."""

_STATISTICS_IMAGES = 2048
_RATE_IMAGES = 256
_KIND = "partial"


@dataclass(frozen=True)
class Finetuning:
    """What a fine-tuning is run with, and where its state is kept.

    Attributes:
        data: Its training part is trained on; its validation part chooses the epoch.
        settings: Epochs, patience, learning rate, batch size.
        seed: Order and augmentation.
        on_step: Called after each step.
        cache: Where the state after each epoch is kept; `None` = nowhere.
        key: Hash of whatever determines this fine-tuning.
        name: Of its curves in TensorBoard.
    """

    data: ImageDataset
    settings: TrainingSettings
    seed: int
    on_step: Callable[[], None] = lambda: None
    cache: Cache | None = None
    key: str = ""
    name: str = "fine-tune"


def finetune(network: SplitNetwork, teacher: Teacher, run: Finetuning) -> None:
    """Train a plan in place, through its quantiser, and estimate its batch-norm statistics afterwards.

    Where bytes are in the loss, those of the plan as it came from the supernet are kept: the search chose it by them.

    Args:
        network: Extracted from a supernet; left in evaluation mode.
        teacher: The untouched backbone.
        run: Data, settings and all else.
    """

    def loss(batch: Batch) -> Tensor:
        return distillation_loss(network(batch.images), batch.labels, teacher(batch)) + network.cost()

    images = statistics_images(run.data)
    hold_rate(network, images[:_RATE_IMAGES], run.settings.batch_size)
    lr = run.settings.finetune_lr
    named = {n: p for n, p in network.named_parameters() if p.requires_grad}
    rest = {n: p for n, p in named.items() if n.startswith(("head.", "tail."))}
    groups = parameter_groups(rest.values(), [(n, p) for n, p in named.items() if n not in rest], lr, CODEC_LR)
    train_keeping_best(network, groups, loss, lambda: accuracy(network, run.data, run.data.validation), run)
    recalibrate(network, images, run.settings.batch_size)


def hold_rate(network: SplitNetwork, images: Tensor, batch_size: int) -> None:
    """Keep, in training, the bytes that images take now, where the codec has a rate in its loss.

    Args:
        network: Fresh from a supernet; the statistics of its batch norms are estimated anew.
        images: Normalised, (N, C, H, W).
        batch_size: Images of a batch in training.
    """
    if network.encoder is not None and isinstance(network.quantiser, RateQuantiser):
        recalibrate(network, images, batch_size)
        with torch.inference_mode():
            code = torch.cat([network.encoder(network.head(part)) for part in in_batches(images, batch_size)])
            network.quantiser.hold(code, batch_size)


def statistics_images(data: ImageDataset) -> Tensor:
    """Normalised images that batch-norm statistics of a fine-tuned network are estimated on."""
    return data.normalise(data.train.images[:_STATISTICS_IMAGES])


def train_keeping_best(
    network: nn.Module, groups: Sequence[Group], loss: Callable[[Batch], Tensor],
    score: Callable[[], float], run: Finetuning,
) -> None:
    """Fine-tune in place until the score has stopped growing, and go back to the best weights.

    Args:
        network: What is trained.
        groups: Its parameters.
        loss: Loss of a batch.
        score: Accuracy on validation images just now, called after each epoch.
        run: Data, settings and all else.
    """
    state, settings = _BestSoFar(network, score, run), run.settings
    done, memory = state.restore()
    for _ in range(done * steps_per_epoch(run.data, settings.batch_size)):
        run.on_step()  # steps of the interrupted call count as done
    network.train()
    if not state.over:
        train(run.data, groups, loss, epochs=settings.finetune_epochs, batch_size=settings.batch_size, seed=run.seed,
              weight_decay=1e-4, name=run.name, on_step=run.on_step, on_epoch=state.after_epoch, done=done,
              memory=memory)
    network.load_state_dict(state.best)


@dataclass
class _BestSoFar:
    """The best weights so far, how many epochs ago they were found, and the cache entry that holds both."""

    network: nn.Module
    score: Callable[[], float]
    run: Finetuning
    best: dict[str, Tensor] = field(default_factory=dict)
    best_accuracy: float = -1.0
    waited: int = 0

    @property
    def over(self) -> bool:
        """Whether training has gone on for long enough without getting better."""
        return self.waited >= self.run.settings.finetune_patience

    def after_epoch(self, done: int, memory: Memory) -> bool:
        """Score the network, keep the best weights and the state; says whether to go on."""
        found = self.score()
        log_scalar(f"{self.run.name}/validation accuracy", found, done)
        self.network.train()
        if found > self.best_accuracy:
            # a copy, since training goes on in these tensors
            self.best, self.best_accuracy, self.waited = copy.deepcopy(self.network.state_dict()), found, 0
        else:
            self.waited += 1
        if self.run.cache is not None and done < self.run.settings.finetune_epochs:
            state = {f"network.{n}": t for n, t in self.network.state_dict().items()}
            state |= {f"best.{n}": t for n, t in self.best.items()}
            state |= {f"memory.{i:05d}": t for i, t in enumerate(memory())}
            state["figures"] = torch.tensor([done, self.waited, self.best_accuracy], dtype=torch.float64)
            self.run.cache.save(_KIND, self.run.key, state, {"kind": "interrupted fine-tuning"})
        return not self.over

    def restore(self) -> tuple[int, list[Tensor] | None]:
        """Go back to the state that was stored last: epochs done, and the optimiser's memory."""
        found = self.run.cache.load(_KIND, self.run.key) if self.run.cache is not None else None
        if found is None:
            return 0, None
        done, waited, self.best_accuracy = found["figures"].tolist()
        self.waited = int(waited)
        self.best = {n.removeprefix("best."): t for n, t in found.items() if n.startswith("best.")}
        self.network.load_state_dict({n.removeprefix("network."): t for n, t in found.items()
                                      if n.startswith("network.")})
        return int(done), [found[n] for n in sorted(found) if n.startswith("memory.")]
