"""Rules: what each takes, by hand, and that tuning finds the better setting."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from autosplit.agents.control.play import play, play_beside
from autosplit.agents.control.tuning import RULES, tuned, tuned_each
from autosplit.envs.stream.core import StreamCore
from autosplit.runtime.standalone.control.rules import DriftPlusPenalty, FairShare, Fixed, Myopic, QueueAware
from autosplit.runtime.standalone.control.view import View
from tests.envs.stream.streams import stream


def view(age_ms=(0.0,), waiting=(0,), price=(0.0,), per_s=(1.0,)):
    """Devices with a deadline of 100 ms and levels of 20, 50 and 90 ms; 1, 2 and 6 mJ."""
    count = len(age_ms)

    def each(*values):
        return np.tile(np.array(values), (count, 1))

    ones = np.ones(count)
    return View(
        sharing=np.ones(count, dtype=int), deadline_ms=100 * ones, age_ms=np.array(age_ms), waiting=np.array(waiting),
        buffer=8 * ones, next_age_ms=0 * ones, arrivals_per_s=np.array(per_s), usual_per_s=np.array(per_s), rate=ones,
        usual_rate=ones, since_ms=0 * ones, left=ones, charge=ones, price=np.array(price),
        accuracy=each(0.6, 0.8, 0.9), sent=each(0.0, 1.0, 1.0), takes_ms=each(20.0, 50.0, 90.0),
        busy_ms=each(20.0, 50.0, 90.0), air_ms=each(0.0, 10.0, 50.0), energy_mj=each(1.0, 2.0, 6.0))


def test_fixed_is_fixed():
    assert Fixed(1).decide(view((0.0, 99.0), (0, 5), (0.0, 0.0), (1.0, 1.0))).tolist() == [1, 1]


@pytest.mark.parametrize(("age", "price", "taken"), [(0.0, 0.0, 2), (11.0, 0.0, 1), (51.0, 0.0, 0), (0.0, 0.03, 1),
                                                    (0.0, 0.25, 0)])
def test_myopic_takes_what_is_worth_most_in_time(age, price, taken):
    assert Myopic().decide(view((age,), price=(price,)))[0] == taken


@pytest.mark.parametrize(("sharing", "taken"), [(1, 2), (2, 1), (16, 0)])
def test_a_fair_share_of_the_link_is_one_among_all(sharing, taken):
    seen = dataclasses.replace(view(per_s=(11.0,)), sharing=np.array([sharing]))  # 0, 0.11 and 0.55 of the time
    assert FairShare().decide(seen)[0] == taken


def test_what_nothing_fits():
    assert Myopic().decide(view((85.0,)))[0] == 0
    assert Myopic(skips=True).decide(view((85.0,)))[0] == 3
    assert Myopic(margin=2.0).decide(view((15.0,)))[0] == 0


def test_a_queue_makes_it_hurry():
    rule = QueueAware(1.0, 0.5)
    assert [int(rule.decide(view(waiting=(n,)))[0]) for n in (0, 1, 2, 3, 20)] == [2, 1, 1, 0, 0]
    # where nothing is quick enough, the quickest that fits; where nothing fits, none
    assert QueueAware(1.0, 0.5, skips=True).decide(view((85.0,), (3,)))[0] == 3


def test_drift_weighs_accuracy_against_the_queue():
    # alone the device waits a second for the next picture, whatever it takes for this one
    assert DriftPlusPenalty(1.0, 1.0).decide(view())[0] == 2
    busy = {"waiting": (6,), "per_s": (15.0,)}
    found = [int(DriftPlusPenalty(1.0, weight).decide(view(**busy))[0]) for weight in (0.01, 1000.0)]
    # per millisecond the quickest level answers most
    assert found == [0, 0]
    gains = (np.array([0.6, 0.8, 0.9]) * 5 - 7 * (np.array([20, 50, 90]) * 0.015 - 1)) / np.array([20, 50, 90])
    assert DriftPlusPenalty(1.0, 5.0).decide(view(**busy))[0] == gains.argmax()


def test_tuning_takes_the_best_and_all_rules_can_be():
    core = StreamCore([stream(40.0, pictures=100)], draws=4)
    which = np.zeros(24, dtype=np.int64)
    for name, rule in RULES.items():
        candidates = rule.all(core.levels)
        found = tuned(candidates, core, 0, 24, 0)
        rewards = [play(core, c, which, 0).reward.mean() for c in candidates]
        assert play(core, found, which, 0).reward.mean() == max(rewards), name
        assert len(set(candidates)) == len(candidates)


def test_playing_counts_every_picture():
    core = StreamCore([stream(100.0, pictures=50), stream(1.0, pictures=50)], draws=4)
    played = play(core, Fixed(0), np.array([0, 1, 1]), 0)
    # one a second, each answered on the device
    assert played.accuracy[1:] == pytest.approx([0.7, 0.7])
    assert played.decisions[1:].tolist() == [50, 50]
    assert played.energy_mj[1:] == pytest.approx([1.5, 1.5])
    # three times as many as the device can take, and the oldest first: most are late
    assert played.accuracy[0] < 0.2
    skipping = play(core, Myopic(skips=True), np.array([0]), 0)
    assert played.accuracy[0] < 0.5 * skipping.accuracy[0]
    assert played.decisions[0] < 30
    assert played.reward == pytest.approx(played.accuracy)


def test_each_episode_may_have_its_own_controller():
    core, which = StreamCore([stream(15.0), stream(40.0)], 4), np.array([0, 1, 1, 0])
    mixed = play(core, [Fixed(0), Fixed(1), Fixed(0), Fixed(1)], which, 3)
    alone = [play(core, Fixed(level), which, 3) for level in (0, 1)]
    assert mixed.accuracy.tolist() == [alone[level].accuracy[row] for row, level in enumerate((0, 1, 0, 1))]


def test_tuning_many_is_tuning_each():
    core = StreamCore([stream(5.0), stream(60.0)], 4)
    found = tuned_each(Fixed.all(3), core, np.array([1, 0]), 4, 0)
    for (controller, reward), index in zip(found, (1, 0), strict=True):
        rewards = [play(core, Fixed(level), np.repeat([1, 0], 4), 0).reward.reshape(2, 4).mean(axis=1)[1 - index]
                   for level in range(3)]
        assert reward == max(rewards)
        assert controller == Fixed(int(np.argmax(rewards)))


def test_controllers_beside_one_another_meet_the_same_streams():
    core, which = StreamCore([stream(15.0), stream(40.0)], 4), np.array([0, 1, 1, 0])
    controllers = [Fixed(0), Fixed(1), Fixed(0)]
    found = play_beside(core, controllers, which, 3)
    # this stream leaves nothing to chance but arrivals, which are the same for all
    for controller, played in zip(controllers, found, strict=True):
        alone = play(core, controller, which, 3)
        for name, values in vars(played).items():
            assert values.tolist() == getattr(alone, name).tolist(), name
