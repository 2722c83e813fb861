"""Training of the whole network on pictures as a lossy image format leaves them.

A network that was taught with clean pictures loses accuracy on badly coded ones that it can learn to keep. So plans at
split point `input` are treated as all others: one network is trained on all formats at once, by which plans are
compared (F1), and the finalists have one trained for their own format (F3). Both are taught by the untouched backbone,
which sees the clean picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor, nn

from autosplit.compression.network import recalibrate
from autosplit.core.scenario import SearchSpace
from autosplit.data.stored import StoredFormat, decode_images, encode_images
from autosplit.training.finetune import Finetuning, train_keeping_best
from autosplit.training.loop import Batch, Group, Teacher, accuracy, distillation_loss, train

__all__ = ["as_coded", "lossy_formats", "train_on_coded_images"]

_STATISTICS = 1024  # coded pictures that batch-norm statistics are estimated on


def lossy_formats(space: SearchSpace) -> list[StoredFormat]:
    """Every lossy image format of a search space, as whole files."""
    settings = space.image_settings("jpeg", "webp", "avif")
    # what an encoder's effort changes is hardly seen in the picture
    return list(dict.fromkeys(s.stored_format.whole for s in settings if s.effort in (None, 0)))


def as_coded(images: Tensor, format: StoredFormat) -> Tensor:  # noqa: A002
    """Pictures as the edge sees them, uint8 (N, C, H, W); codecs run on the processor."""
    _, channels, height, width = images.shape
    return decode_images(encode_images(images.cpu(), format.whole), (channels, height, width), format.downscale)


def train_on_coded_images(
    network: nn.Module, teacher: Teacher, formats: Sequence[StoredFormat], run: Finetuning
) -> None:
    """Train a whole network in place on coded pictures, and estimate its batch-norm statistics on some.

    Args:
        network: The backbone, or one that was trained on several formats; left in evaluation mode.
        teacher: The untouched backbone.
        formats: One is drawn at random for each batch. With a single one the epoch is kept that is best on validation
            images so coded, as in every fine-tuning.
        run: Data, settings and all else.
    """
    data, settings, draws = run.data, run.settings, Random(run.seed)
    # pictures that stay as they are need to be coded once
    pictures = data.coded_images("train", formats[0]).images if len(formats) == 1 and not data.augment else None

    def loss(batch: Batch) -> Tensor:
        coded = as_coded(batch.pictures, draws.choice(formats)) if pictures is None else pictures[batch.indices.cpu()]
        return distillation_loss(network(data.normalise(coded)), batch.labels, teacher(batch))

    groups = [Group([p for p in network.parameters() if p.requires_grad], settings.finetune_lr)]
    network.train()
    if len(formats) == 1:
        validation = data.coded_images("validation", formats[0])
        train_keeping_best(network, groups, loss, lambda: accuracy(network, data, validation), run)
    else:
        train(data, groups, loss, epochs=settings.finetune_epochs, batch_size=settings.batch_size, seed=run.seed,
              weight_decay=1e-4, name=run.name, on_step=run.on_step)
    some = data.train.images[:_STATISTICS]
    parts = [as_coded(part, stored) for part, stored in zip(some.chunk(len(formats)), formats, strict=False)]
    recalibrate(network, data.normalise(torch.cat(parts)), settings.batch_size)
    network.eval()
