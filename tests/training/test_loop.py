from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autosplit.training.backbone import train_backbone
from autosplit.training.loop import (
    Group,
    Teacher,
    accuracy,
    batches,
    distillation_loss,
    logits_of,
    steps_per_epoch,
    train,
)
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

        def on_epoch(done, memory):
            epochs.append(done)
            return True

        def loss(batch):
            x = F.adaptive_avg_pool2d(batch.images, 2)[:, 0].flatten(1)
            return F.cross_entropy(still(x) + moving(x), batch.labels)

        groups = [Group(list(still.parameters()), 1e-9), Group(list(moving.parameters()), 0.1)]
        train(data, groups, loss, epochs=2, batch_size=64, seed=0, on_epoch=on_epoch)
        torch.testing.assert_close(still.weight, before, atol=1e-6, rtol=0)
        assert (moving.weight - start).abs().max() > 0.05
        assert epochs == [1, 2]

    @pytest.mark.parametrize(("epochs", "batch_size"), [(1, 256), (1, 128), (1, 86), (3, 256), (1, 64), (5, 256)])
    def test_any_number_of_steps(self, data, batch_size, epochs):
        layer, steps = nn.Linear(4, 3), []
        before = layer.weight.clone()
        groups = [Group(list(layer.parameters()), 0.1)]
        train(data, groups, lambda batch: F.cross_entropy(layer(small(batch)), batch.labels), epochs=epochs,
              batch_size=batch_size, seed=0, on_step=lambda: steps.append(1))
        assert len(steps) == epochs * steps_per_epoch(data, batch_size)
        assert not torch.equal(layer.weight, before)
        assert layer.weight.isfinite().all()


def small(batch):
    return F.adaptive_avg_pool2d(batch.images, 2)[:, 0].flatten(1)


class Recorded:
    """A training that can be interrupted after any epoch: dropout, a late parameter and two optimisers are in it."""

    def __init__(self):
        torch.manual_seed(0)
        self.first, self.late = nn.Linear(4, 8), nn.Linear(8, 3)
        self.drop = nn.Dropout(0.2)
        self.orders, self.kept = [], {}
        self.epoch = 0

    @property
    def parameters(self):
        return [*self.first.parameters(), *self.late.parameters()]

    def loss(self, batch):
        self.orders.append((self.epoch, batch.indices.tolist()))
        x = self.drop(self.first(small(batch)).relu())
        # no gradient, and so no momentum, before the second epoch
        late = self.late if self.epoch else lambda y: F.linear(y, self.late.weight.detach(), self.late.bias.detach())
        return F.cross_entropy(late(x), batch.labels)

    def on_epoch(self, done, memory):
        self.epoch = done
        self.kept[done] = [p.detach().clone() for p in self.parameters], [m.clone() for m in memory()]
        return True

    def run(self, data, done=0, memory=None, epochs=4, seed=0, on_epoch=None):
        self.epoch = done
        groups = [Group([self.first.weight], 0.1), Group([self.first.bias], 0.01, adaptive=True),
                  Group([self.late.weight], 0.02), Group([self.late.bias], 0.005, adaptive=True)]
        train(data, groups, self.loss, epochs=epochs, batch_size=64, seed=seed, weight_decay=1e-3,
              on_epoch=on_epoch or self.on_epoch, done=done, memory=memory)
        return self


@pytest.fixture(scope="module")
def whole(data):
    return Recorded().run(data)


class TestResume:
    @pytest.mark.parametrize("done", [1, 2, 3])
    def test_goes_on_as_if_it_had_not_been_interrupted(self, data, whole, done):
        parameters, memory = whole.kept[done]
        resumed = Recorded()
        with torch.no_grad():
            for p, kept in zip(resumed.parameters, parameters, strict=True):
                p.copy_(kept)
        torch.rand(7)  # whatever another process has drawn before
        resumed.run(data, done, memory)
        assert sorted(resumed.kept) == list(range(done + 1, 5))
        for p, expected in zip(resumed.parameters, whole.parameters, strict=True):
            assert torch.equal(p, expected)
        assert resumed.orders == [entry for entry in whole.orders if entry[0] >= done]

    def test_memory_matters(self, data, whole):
        parameters, memory = whole.kept[2]
        assert any(m.any() for m in memory)
        resumed = Recorded()
        with torch.no_grad():
            for p, kept in zip(resumed.parameters, parameters, strict=True):
                p.copy_(kept)
        resumed.run(data, 2)
        assert not torch.equal(resumed.first.weight, whole.first.weight)

    def test_the_memory_that_was_given_is_left_alone(self, data, whole):
        _, memory = whole.kept[2]
        before = [m.clone() for m in memory]
        Recorded().run(data, 2, memory)
        assert all(torch.equal(m, b) for m, b in zip(memory, before, strict=True))

    def test_a_parameter_without_a_gradient_has_zeros_for_memory(self, whole):
        memory = whole.kept[1][1]
        # the weights first, trained by SGD, then the biases by Adam, with three tensors each
        assert [bool(m.any()) for m in memory] == [True, False, *[True] * 3, *[False] * 3]
        assert all(m.any() for m in whole.kept[2][1])

    def test_memory_of_another_network_is_refused(self, data, whole):
        with pytest.raises(ValueError, match="zip"):
            Recorded().run(data, 2, whole.kept[2][1][:-1])

    def test_nothing_is_left_to_do(self, data, whole):
        resumed = Recorded()
        before = resumed.first.weight.clone()
        resumed.run(data, 4, whole.kept[4][1])
        assert torch.equal(resumed.first.weight, before)
        assert resumed.orders == []

    def test_epochs_have_orders_of_their_own(self, data, whole):
        by_epoch = [[i for e, order in whole.orders if e == epoch for i in order] for epoch in range(4)]
        assert all(sorted(order) == list(range(256)) for order in by_epoch)
        assert len({tuple(order) for order in by_epoch}) == 4

    def test_seeds_that_lie_close_have_no_order_in_common(self, data):
        orders = [tuple(o) for seed in range(3) for _, o in Recorded().run(data, epochs=3, seed=seed).orders]
        assert len(set(orders)) == len(orders)

    def test_stops_when_told(self, data):
        recorded, seen = Recorded(), []

        def on_epoch(done, memory):
            seen.append(done)
            return done < 2

        recorded.run(data, on_epoch=on_epoch)
        assert seen == [1, 2]
        assert len(recorded.orders) == 2 * steps_per_epoch(data, 64)


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
