"""Exits: their structure, their training, and what a threshold makes of them."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from autosplit.core.measurement import StageCost
from autosplit.core.plan import Exit
from autosplit.models.costs import stage_cost
from autosplit.models.exits import (
    ExitNetwork,
    build_classifier,
    classifier_structure,
    exit_point,
    pooled,
    temperature,
)
from autosplit.runtime.standalone.payload.exits import answered_by_both, confidence, payloads_of_all
from autosplit.training.exits import fit_classifier
from autosplit.training.loop import logits_of
from tests.tiny import tiny_dataset, tiny_network

AT = Exit(threshold=0.8)


@pytest.mark.parametrize("feature", [(16, 32, 32), (24, 56, 56), (112, 14, 14), (8, 7, 7), (3, 33, 47), (64, 1, 1)])
def test_structure_takes_features_of_any_size(feature):
    structure = json.loads(json.dumps(classifier_structure(feature, 10)))
    exit_ = build_classifier(structure).eval()
    features = torch.rand(2, *feature)
    assert exit_(features).shape == (2, 10)
    assert max(pooled(structure, features).shape[2:]) <= 8
    assert stage_cost(exit_, feature).macs < 2.6e6
    alone = build_classifier({**structure, "pool": 1}).eval()
    alone.load_state_dict(exit_.state_dict())
    assert torch.equal(alone(pooled(structure, features)), exit_(features))


def test_confidence_is_the_largest_probability():
    logits = torch.tensor([[0.0, 0.0], [0.0, np.log(3)]])
    assert confidence(logits.numpy()).tolist() == pytest.approx([0.5, 0.75])
    many = 30 * torch.randn(500, 20, generator=torch.Generator().manual_seed(0))
    assert confidence(many.numpy()) == pytest.approx(torch.softmax(many, 1).amax(1).numpy(), rel=1e-5)


def test_both_ends_answer_in_the_order_of_the_images():
    sent = np.array([True, False, True])
    payloads = payloads_of_all(sent, [b"a", b"c"])
    assert payloads == [b"a", b"", b"c"]
    local = np.zeros((3, 2), dtype=np.float32)
    found = answered_by_both(local, payloads, lambda given: np.array([[ord(p), 1] for p in given], dtype=np.float32))
    assert found.tolist() == [[97, 1], [0, 0], [99, 1]]
    assert not local.any()
    assert answered_by_both(local, [b""] * 3, None) is not local


def test_temperature_is_that_of_logits_that_are_too_sure():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial(torch.softmax(logits, 1), 1, generator=generator).squeeze(1)
    assert temperature(3 * logits, labels) == pytest.approx(3, rel=0.05)
    assert temperature(logits / 4, labels) == pytest.approx(0.25, rel=0.05)


def test_an_exits_logits_are_divided_by_its_temperature():
    exit_ = ExitNetwork(nn.Flatten(), whole=False)
    exit_.temperature.fill_(4.0)
    assert exit_(torch.full((1, 2, 1, 1), 8.0)).tolist() == [[2.0, 2.0]]
    assert set(exit_.state_dict()) == {"temperature"}


def test_a_threshold_by_hand():
    leaves = np.array([True, True, False, False])
    point = exit_point(AT, leaves, np.array([True, False, False, True]), np.array([False, False, True, True]),
                       np.array([10, 20, 30, 50]), StageCost(operators=3))
    assert (point.sent, point.exit_accuracy, point.sent_accuracy) == (0.5, 0.5, 1.0)
    assert point.payload_bytes_mean == 40
    assert point.device.operators == 3
    none = exit_point(AT, ~leaves & False, leaves, leaves, np.arange(4), StageCost())
    assert (none.sent, none.exit_accuracy, none.accuracy) == (1, 0, 0.5)
    every = exit_point(AT, leaves | True, leaves, leaves, np.arange(4), StageCost())
    assert (every.sent, every.sent_accuracy, every.payload_bytes_p95, every.accuracy) == (0, 0, 0, 0.5)


@pytest.fixture(scope="module")
def data():
    return tiny_dataset()


@pytest.fixture(scope="module")
def head():
    return tiny_network().stem.eval()


def test_learns_and_leaves_the_head_alone(data, head):
    before = {n: t.clone() for n, t in head.state_dict().items()}
    shape = logits_of(head, data, data.train.images[:2]).shape[1:]
    found = fit_classifier(head, classifier_structure(shape, data.num_classes), data, None, 0)
    again = fit_classifier(head, classifier_structure(shape, data.num_classes), data, None, 0)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(before[n], t) for n, t in head.state_dict().items())
    assert not any(p.requires_grad for p in found.parameters())
    whole = nn.Sequential(head, found).eval()
    logits = logits_of(whole, data, data.validation.images)
    right = (logits.argmax(1) == data.validation.labels).float()
    assert right.mean() > 2 / data.num_classes  # it has learned something


def test_a_teacher_is_followed(data, head):
    shape = logits_of(head, data, data.train.images[:2]).shape[1:]
    always = torch.zeros(len(data.train), data.num_classes)
    always[:, 1] = 50.0
    structure = classifier_structure(shape, data.num_classes)
    plain, taught = (fit_classifier(head, structure, data, answers, 0) for answers in (None, always))
    share = [(logits_of(nn.Sequential(head, e).eval(), data, data.test.images).argmax(1) == 1).float().mean()
             for e in (plain, taught)]
    assert share[1] > share[0]
