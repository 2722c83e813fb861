"""Batches in parts, where memory runs out."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autosplit.core.accelerator import CPU, Accelerator
from autosplit.core.errors import ConfigError
from autosplit.training import memory
from autosplit.training.loop import Batch, Group, logits_of, train
from autosplit.training.memory import Parts
from tests.tiny import tiny_dataset


@pytest.fixture(autouse=True)
def _nothing_said_yet():
    memory._say.cache_clear()


class Small(nn.Module):
    """A network that holds so many images at a time, and remembers how many it was given; nothing depends on others."""

    def __init__(self, most):
        super().__init__()
        self.most, self.seen = most, []
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)

    def forward(self, images):
        self.seen.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.layer(images.mean((2, 3)))


def trained(network, data):
    def loss(batch):
        return F.cross_entropy(network(batch.images), batch.labels)

    train(data, [Group(list(network.parameters()), 0.1)], loss, epochs=1, batch_size=64, seed=0)
    return network


def test_training_goes_on_in_parts_with_the_same_steps(caplog, monkeypatch):
    monkeypatch.setattr(Accelerator, "half", None)
    data = tiny_dataset(images=130)
    whole, parts = trained(Small(64), data), trained(Small(20), data)
    for found, expected in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(found, expected)
    # 64, 32 and 16 images are tried once; later steps begin with what fitted; the last one has two images
    assert whole.seen == [64, 64, 2]
    assert parts.seen == [64, 32, *[16] * 8, 2]
    assert [r.getMessage().partition(": ")[2] for r in caplog.records] == [
        "out of memory; going on with 32 images at a time", "out of memory; going on with 16 images at a time"]


def test_measuring_goes_on_in_parts(caplog):
    data = tiny_dataset()
    found, expected = (logits_of(Small(most), data, data.validation.images) for most in (20, 1000))
    assert torch.equal(found, expected)
    assert all("out of memory" in r.getMessage() for r in caplog.records)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        logits_of(Small(20), data, data.validation.images)
    assert not caplog.records  # said once


def test_a_single_image_too_many_is_an_error():
    data = tiny_dataset()
    with pytest.raises(ConfigError, match=r"out of memory with 1 images.*--accelerator cpu"):
        logits_of(Small(0), data, data.validation.images)
    with pytest.raises(ConfigError, match=r"out of memory with 2 images.*--accelerator cpu"):  # no variance of one
        trained(Small(1), data)


@pytest.mark.parametrize(("images", "number", "sizes"), [
    (8, 1, [8]), (8, 2, [4, 4]), (9, 2, [5, 4]), (9, 4, [3, 3, 3]), (7, 4, [2, 2, 3]), (5, 4, [2, 3]), (3, 2, [3]),
    (2, 8, [2])])
def test_no_part_of_a_batch_has_a_single_image(images, number, sizes):
    pictures = torch.arange(images)
    batch = Batch(pictures, pictures, pictures, pictures, augmented=False)
    parts = list(batch.parts(number))
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat([part.labels for part in parts]), pictures)


def test_other_errors_are_not_taken_for_it():
    def wrong(number):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        Parts(CPU).run(wrong, 8)
