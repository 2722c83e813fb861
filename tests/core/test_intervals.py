"""Intervals of accuracies and of their differences: known values, and how often they hold what is true."""

import numpy as np
import pytest
from pydantic import ValidationError

from autosplit.core.answers import Answers
from autosplit.core.intervals import accuracy_interval, difference_interval


def answers(right, images):
    return np.arange(images) < right


def test_wilson_is_the_textbooks():
    # Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263 and 0 of 20
    assert accuracy_interval(answers(81, 263)) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert accuracy_interval(answers(0, 20)) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert accuracy_interval(answers(20, 20)) == pytest.approx((0.8389, 1.0), abs=5e-5)


def test_difference_by_hand():
    # of 100 images 8 are right by the first alone and 2 by the second alone: 9/102, 3/102
    first, second = np.ones(100, bool), np.ones(100, bool)
    second[:8], first[8:10] = False, False
    centre, spread = 6 / 102, 1.959964 * np.sqrt((12 / 102 - (6 / 102) ** 2) / 102)
    assert difference_interval(first, second) == pytest.approx((centre - spread, centre + spread), rel=1e-5)
    assert difference_interval(second, first) == pytest.approx((-centre - spread, -centre + spread), rel=1e-5)


def test_equal_answers_are_no_proof_that_two_deployments_are_equal():
    # 111 of 116 right, the same ones: up to 2.4 points may lie between them
    interval = difference_interval(answers(111, 116), answers(111, 116))
    assert interval.low == pytest.approx(-interval.high)
    assert interval.half_width == pytest.approx(0.0237, abs=5e-4)


def test_images_of_one_source_do_not_make_it_surer():
    right = answers(90, 100)
    alone = accuracy_interval(right)
    copies, sources = np.tile(right, 7), np.tile(np.arange(100), 7)
    assert accuracy_interval(copies, sources).half_width == pytest.approx(alone.half_width, rel=0.02)
    assert accuracy_interval(copies).half_width < 0.5 * alone.half_width
    assert accuracy_interval(right, np.arange(100)) == alone
    # nothing to estimate a variance from: an image a source
    assert accuracy_interval(np.ones(700, bool), sources) == accuracy_interval(np.ones(100, bool))


@pytest.mark.parametrize(("sources", "each"), [(300, 7), (2000, 1)])
def test_95_of_100_intervals_hold_the_truth(sources, each):
    rng = np.random.default_rng(5)
    source = np.repeat(np.arange(sources), each)
    held = paired = 0
    for _ in range(400):
        # sources differ in how hard they are; both deployments find the same ones hard
        ease = rng.beta(9, 1, sources) if each > 1 else np.full(sources, 0.9)
        first, second = (rng.random(len(source)) < ease[source] for _ in range(2))
        low, high = accuracy_interval(first, source)
        held += low <= 0.9 <= high
        low, high = difference_interval(first, second, source)
        paired += low <= 0 <= high
    assert 0.92 <= held / 400 <= 0.98
    assert 0.92 <= paired / 400 <= 0.98


@pytest.mark.parametrize("images", [1, 8, 2001])
def test_answers_hold_every_image(images):
    labels = np.arange(images) % 3
    predicted = np.random.default_rng(0).integers(0, 3, images)
    answers = Answers.model_validate_json(Answers.of(predicted, labels).model_dump_json())
    assert np.array_equal(answers.hits, predicted == labels)
    assert answers.accuracy == (predicted == labels).mean()
    with pytest.raises(ValidationError, match="bytes for"):
        Answers.model_validate(answers.model_dump() | {"images": images + 8})
    with pytest.raises(ValidationError, match="base64"):
        Answers.model_validate(answers.model_dump() | {"right": "~~"})


def test_accuracy_hides_a_class_that_is_never_found():
    labels = np.repeat([0, 1, 3], [60, 30, 10])
    predicted = np.where(labels == 3, 0, labels)
    answers = Answers.of(predicted, labels)
    assert answers.accuracy == 0.9
    assert answers.balanced_accuracy == pytest.approx(2 / 3)
    assert (answers.least_recall, answers.least_recalled) == (0.0, 3)
    assert (answers.most_named_share, answers.most_named, answers.most_common_share) == (0.7, 0, 0.6)
