"""Fine-tuning of the rates of one cut: several settings of its codec that share head, codec and tail.

Each step trains three rates on the same images: the largest, the smallest and a random one between (the sandwich rule
of Yu and Huang 2019, arXiv 1903.05134). Weights are shared; statistics of batch norms are each rate's own and
estimated afterwards, since what the tail sees depends on the rate (Yu et al. 2019, arXiv 1812.08928).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from autosplit.compression.network import SplitNetwork, recalibrate
from autosplit.core.plan import Plan
from autosplit.core.scenario import TrainingSettings
from autosplit.data.base import ImageDataset
from autosplit.training.finetune import CODEC_LR, Finetuning, statistics_images, train_keeping_best
from autosplit.training.loop import Batch, Teacher, accuracy, distillation_loss, parameter_groups
from autosplit.training.supernet import Supernet
from autosplit.training.supernet_training import relative_loss

__all__ = ["finetune_rates", "rate_network"]


def finetune_rates(supernet: Supernet, rates: Sequence[Plan], teacher: Teacher, run: Finetuning) -> None:
    """Train a supernet in place for a few plans alone; the epoch with the best mean accuracy over them is kept.

    Args:
        supernet: Trained; left in evaluation mode. `rate_network` takes the plans out of it.
        rates: Plans of one split point and sparsity, smallest payload first.
        teacher: The untouched backbone.
        run: Data, settings and all else.

    A bit keeps its price here, so that bytes may shrink, which `finetune` does not let them: what a rate takes is
    measured afterwards.
    """
    data, settings = run.data, run.settings

    def loss(batch: Batch) -> Tensor:
        taught = teacher(batch)
        # torch's own generator, which `train` seeds anew for each epoch, so that training can go on from any of them
        drawn = {0, len(rates) - 1, int(torch.randint(len(rates), ()))}
        values = [distillation_loss(supernet(batch.images, rates[i]), batch.labels, taught) + supernet.cost(rates[i])
                  for i in sorted(drawn)]
        return torch.stack([relative_loss(v) for v in values]).mean()

    def score() -> float:
        return fmean(accuracy(rate_network(supernet, plan, data, settings), data, data.validation) for plan in rates)

    new = supernet.new_parameters(rates[0].place, rates[0].codec.family)
    groups = parameter_groups(supernet.trained_parameters(), new, settings.finetune_lr, CODEC_LR)
    train_keeping_best(supernet, groups, loss, score, run)
    supernet.eval()


def rate_network(supernet: Supernet, plan: Plan, data: ImageDataset, settings: TrainingSettings) -> SplitNetwork:
    """A rate as a network of its own, with its own statistics of batch norms.

    Heads of all rates are equal: what lies before the codec sees nothing of the rate.
    """
    network = supernet.extract(plan)
    recalibrate(network, statistics_images(data), settings.batch_size)
    return network
