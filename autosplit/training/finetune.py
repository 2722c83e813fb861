"""Fine-tuning of a finalist (F3): a hard-pruned plan with weights of its own, taught by the untouched backbone."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from autosplit.compression.network import SplitNetwork, recalibrate
from autosplit.datasets.base import ImageDataset
from autosplit.scenario import TrainingSettings
from autosplit.training.loop import Batch, Teacher, distillation_loss, train

__all__ = ["finetune"]

_CODEC_LR = 2.0
_LIMIT_LR = 0.1
_STATISTICS_IMAGES = 2048


def finetune(
    network: SplitNetwork,
    teacher: Teacher,
    data: ImageDataset,
    settings: TrainingSettings,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Train a plan in place, through its quantiser, and estimate its batch-norm statistics afterwards.

    Args:
        network: Extracted from a supernet; left in evaluation mode.
        teacher: The untouched backbone.
        data: Its training part is used.
        settings: Epochs, learning rate, batch size.
        seed: Order and augmentation.
        on_step: Called after each step.
    """

    def loss(batch: Batch) -> Tensor:
        return distillation_loss(network(batch.images), batch.labels, teacher(batch))

    network.train()
    lr = settings.finetune_lr
    named = dict(network.named_parameters())
    limits = [p for n, p in named.items() if n.endswith("limit")]
    codec = [p for n, p in named.items() if n.startswith(("encoder.", "decoder."))]
    rest = [p for n, p in named.items() if n.startswith(("head.", "tail."))]
    groups = [(g, r) for g, r in ((rest, lr), (codec, lr * _CODEC_LR), (limits, lr * _LIMIT_LR)) if g]
    train(data, groups, loss, epochs=settings.finetune_epochs, batch_size=settings.batch_size, seed=seed,
          weight_decay=1e-4, on_step=on_step)
    recalibrate(network, data.normalise(data.train.images[:_STATISTICS_IMAGES]), settings.batch_size)
