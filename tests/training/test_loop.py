from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autosplit.training.backbone import train_backbone
from autosplit.training.loop import Teacher, accuracy, batches, distillation_loss, logits_of, steps_per_epoch, train
from tests.tiny import tiny_dataset, tiny_network, tiny_settings


@pytest.fixture(scope="module")
def data():
    return tiny_dataset()


def trained(data, seed=0):
    network = tiny_network()
    train_backbone(network, data, tiny_settings(), seed)
    return network


class TestTrainBackbone:
    def test_learns(self, data):
        network = tiny_network()
        untrained = accuracy(network, data, data.validation)
        first = float(F.cross_entropy(logits_of(network.eval(), data, data.train.images), data.train.labels))
        steps = []
        train_backbone(network, data, tiny_settings(), 0, on_step=lambda: steps.append(1))
        last = float(F.cross_entropy(logits_of(network, data, data.train.images), data.train.labels))
        assert last < 0.3 * first
        assert untrained < 0.7
        assert accuracy(network, data, data.validation) > 0.9
        assert len(steps) == 4 * steps_per_epoch(data, 32)
        assert not network.training

    def test_equal_seeds_give_equal_weights(self, data):
        one, two, other = trained(data, 1), trained(data, 1), trained(data, 2)
        assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())
        assert not torch.equal(one.fc.weight, other.fc.weight)


class TestBatches:
    def test_every_image_once(self, data):
        found = list(batches(data, 100, torch.Generator().manual_seed(0)))
        assert [len(b.labels) for b in found] == [100, 100, 56]
        indices = torch.cat([b.indices for b in found])
        assert indices.sort().values.tolist() == list(range(256))
        assert not torch.equal(indices.sort().values, indices)
        for batch in found:
            assert torch.equal(batch.labels, data.train.labels[batch.indices])
            assert torch.equal(batch.images, data.normalise(data.train.images[batch.indices]))
            assert not batch.augmented

    def test_a_rest_of_one_is_left_out(self, data):
        sizes = [len(b.labels) for b in batches(data, 85, torch.Generator())]
        assert sizes == [85, 85, 85]
        assert steps_per_epoch(data, 85) == 3
        assert steps_per_epoch(data, 127) == 3

    def test_augmented(self):
        data = tiny_dataset(augment=True)
        batch = next(batches(data, 64, torch.Generator().manual_seed(0)))
        assert batch.augmented
        assert not torch.equal(batch.images, data.normalise(data.train.images[batch.indices]))


class TestTrain:
    def test_each_group_has_its_rate(self, data):
        still, moving = nn.Linear(4, 3), nn.Linear(4, 3)
        before, start = still.weight.clone(), moving.weight.clone()
        epochs = []

        def loss(batch):
            x = F.adaptive_avg_pool2d(batch.images, 2)[:, 0].flatten(1)
            return F.cross_entropy(still(x) + moving(x), batch.labels)

        groups = [(list(still.parameters()), 1e-9), (list(moving.parameters()), 0.1)]
        train(data, groups, loss, epochs=2, batch_size=64, seed=0, on_epoch=epochs.append)
        torch.testing.assert_close(still.weight, before, atol=1e-6, rtol=0)
        assert (moving.weight - start).abs().max() > 0.05
        assert epochs == [1, 2]


class TestDistillation:
    def test_least_at_the_teachers_answer(self):
        teacher, labels = torch.tensor([[4.0, 1.0, -2.0], [0.0, 3.0, 1.0]]), torch.tensor([0, 1])
        least = distillation_loss(teacher, labels, teacher, hard=0.0)
        assert float(least) == pytest.approx(0, abs=1e-6)
        assert distillation_loss(teacher + torch.randn(2, 3), labels, teacher, hard=0.0) > 1e-3
        # logits are free up to a constant
        assert float(distillation_loss(teacher + 3, labels, teacher, hard=0.0)) == pytest.approx(0, abs=1e-5)

    def test_hard_part_is_cross_entropy(self):
        logits, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
        torch.testing.assert_close(distillation_loss(logits, labels, torch.zeros(4, 3), hard=1.0),
                                   F.cross_entropy(logits, labels))

    def test_by_hand(self):
        logits, teacher = torch.tensor([[0.0, 4.0]]), torch.tensor([[4.0, 0.0]])
        p, q = torch.softmax(torch.tensor([1.0, 0.0]), 0), torch.softmax(torch.tensor([0.0, 1.0]), 0)
        expected = 16 * (p * (p / q).log()).sum()
        torch.testing.assert_close(distillation_loss(logits, torch.tensor([0]), teacher, 4.0, 0.0), expected)


class TestTeacher:
    def test_answers_are_looked_up_by_place(self, data):
        network = tiny_network().eval()
        teacher, batch = Teacher(network, data), next(batches(data, 64, torch.Generator().manual_seed(0)))
        with torch.no_grad():
            torch.testing.assert_close(teacher(batch), network(batch.images))
        calls = []
        network.register_forward_hook(lambda *_: calls.append(1))
        teacher(batch)
        assert not calls

    def test_answers_follow_augmented_images(self):
        data, network = tiny_dataset(augment=True), tiny_network().eval()
        batch = next(batches(data, 64, torch.Generator().manual_seed(0)))
        answers = Teacher(network, data)(batch)
        with torch.no_grad():
            assert torch.equal(answers, network(batch.images))
        assert not answers.requires_grad


class TestAccuracy:
    def test_counts_and_keeps_the_mode(self, data):
        class Guess(nn.Module):
            def forward(self, x):
                assert not self.training
                return torch.tensor([0.0, 1.0, 0.0]).expand(len(x), 3)

        network = Guess().train()
        assert accuracy(network, data, data.validation) == pytest.approx(1 / 3)
        assert network.training

    def test_batches_do_not_matter(self, data):
        network = tiny_network().eval()
        one = logits_of(network, data, data.validation.images, 7)
        torch.testing.assert_close(one, logits_of(network, data, data.validation.images))
        assert not one.requires_grad
        assert not one.is_inference()
