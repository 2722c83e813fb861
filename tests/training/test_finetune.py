"""Fine-tuning: the best epoch is kept, patience ends it, and a kill costs no more than an epoch."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
import torch
from torch import nn

import autosplit.training.finetune as module
from autosplit.compression.network import recalibrate
from autosplit.core.cache import Cache
from autosplit.core.plan import CodecSetting, Plan
from autosplit.core.scenario import TrainingSettings
from autosplit.models.splitting import find_split_points, select_split_points
from autosplit.models.tracing import trace
from autosplit.runtime.standalone.payload.frequencies import FrequencyTables
from autosplit.training.finetune import Finetuning, finetune
from autosplit.training.loop import Teacher, distillation_loss, logits_of
from autosplit.training.supernet import Supernet
from tests.tiny import SPACE, randomise_norms, tiny_dataset, tiny_network

FAMILIES = ("nested", "factorised", "aecnn", "bottlenet++", "bottlenet++:awgn=0.1", "jalad")
EPOCHS, STEPS = 4, 3
KEY = "key"


class Killed(Exception):  # noqa: N818
    pass


@pytest.fixture(scope="module")
def data():
    return tiny_dataset(32 * STEPS)


@pytest.fixture(scope="module")
def supernet(data):
    network = tiny_network()
    randomise_norms(network)
    graph = trace(network.eval(), data.shape)
    points = select_split_points(find_split_points(graph, data.shape), ("layer2",))
    torch.manual_seed(0)
    return Supernet(graph, points, SPACE, data.normalise(data.train.images[:16]), FAMILIES)


@pytest.fixture
def teacher(data):
    network = tiny_network(7)
    randomise_norms(network)
    return Teacher(network.eval(), data)


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path)


def settings_of(**changes):
    return TrainingSettings(**{"finetune_epochs": EPOCHS, "finetune_patience": 99, "batch_size": 32,
                               "finetune_lr": 0.02, **changes})


def network_of(supernet, family="nested", dropout=0.0, sparsity=0.5):
    plan = Plan(split="layer2", sparsity=sparsity, codec=supernet.codec("layer2", family).settings()[-1])
    network = supernet.extract(plan)
    if dropout:
        network.tail = nn.Sequential(nn.Dropout(dropout), network.tail)
    return network


def tune(network, teacher, data, settings=None, *, kill=None, seed=0, **options):
    """Steps that were told; an exception in the step of that number, counted from one."""
    steps = []

    def on_step():
        steps.append(1)
        if len(steps) == kill:
            raise Killed

    torch.manual_seed(seed)  # as `autosplit.pipeline.finalists` does
    finetune(network, teacher, Finetuning(data, settings or settings_of(), seed, on_step, **options))
    return len(steps)


def state_of(network):
    return {n: t.clone() for n, t in network.state_dict().items()}


def assert_equal(network, expected):
    assert [n for n, t in network.state_dict().items() if not torch.equal(t, expected[n])] == []


@pytest.fixture
def scripted(monkeypatch):
    """Validation accuracies as given, one an epoch; the weights that each was asked for."""
    def script(*accuracies):
        seen = []

        def accuracy(network, data, part):
            assert part is data.validation
            seen.append(state_of(network))
            return accuracies[len(seen) - 1]

        monkeypatch.setattr(module, "accuracy", accuracy)
        return seen

    return script


@pytest.fixture
def rising(monkeypatch):
    """Every epoch is better than all before, so that the weights of the last one are what comes out."""
    count = itertools.count(1)
    monkeypatch.setattr(module, "accuracy", lambda *_: float(next(count)))


def weights(state, network):
    names = {n for n, _ in network.named_parameters()}
    return {n: t for n, t in state.items() if n in names}


# --- what is learned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_comes_closer_to_the_teacher(supernet, teacher, data, family):
    network = network_of(supernet, family)
    before = state_of(network)

    def distance():
        with torch.inference_mode():
            answers = logits_of(network.eval(), data, data.train.images)
            return float(distillation_loss(answers, data.train.labels, teacher.answers))

    tune(network, teacher, data, settings_of(finetune_epochs=2, finetune_lr=1e-9))  # recalibrated alone
    first = distance()
    network.load_state_dict(before)
    assert tune(network, teacher, data) == EPOCHS * STEPS
    assert distance() < 0.9 * first
    assert not any(m.training for m in network.modules())
    moved = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n, p in network.named_parameters() if p.requires_grad}


def test_statistics_are_those_of_the_final_weights(supernet, teacher, data):
    network = network_of(supernet)
    tune(network, teacher, data)
    found = state_of(network)
    module.recalibrate(network, data.normalise(data.train.images), 32)
    assert_equal(network, found)


def test_equal_seeds_give_equal_weights(supernet, teacher, data):
    networks = [network_of(supernet, "bottlenet++:awgn=0.1") for _ in range(3)]
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        tune(network, teacher, data, seed=seed)
    assert_equal(networks[1], state_of(networks[0]))
    assert not torch.equal(networks[2].tail.fc.weight, networks[0].tail.fc.weight)


# --- the best epoch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("accuracies", "best"), [
    ((0.5, 0.9, 0.7, 0.8), 1), ((0.9, 0.5, 0.5, 0.5), 0), ((0.1, 0.2, 0.3, 0.4), 3), ((0.5, 0.7, 0.7, 0.6), 1),
    ((0.0, 0.0, 0.0, 0.0), 0)])
def test_weights_of_the_best_epoch_are_kept(supernet, teacher, data, scripted, accuracies, best):
    network, seen = network_of(supernet), scripted(*accuracies)
    tune(network, teacher, data)
    assert len(seen) == EPOCHS
    assert_equal(network, {**state_of(network), **weights(seen[best], network)})
    others = [s for i, s in enumerate(seen) if i != best]
    assert not any(torch.equal(s["tail.fc.weight"], network.tail.fc.weight) for s in others)


@pytest.mark.parametrize(("patience", "accuracies", "epochs", "best"), [
    (1, (0.9, 0.5), 2, 0),
    (2, (0.9, 0.5, 0.5), 3, 0),
    (2, (0.5, 0.4, 0.6, 0.5, 0.6), 5, 2),  # waits anew after a better one; as good is not better
    (1, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 6, 5),
])
def test_patience_ends_it(supernet, teacher, data, scripted, patience, accuracies, epochs, best):
    network, seen = network_of(supernet), scripted(*accuracies)
    settings = settings_of(finetune_epochs=6, finetune_patience=patience)
    assert tune(network, teacher, data, settings) == epochs * STEPS
    assert len(seen) == epochs
    assert_equal(network, {**state_of(network), **weights(seen[best], network)})


# --- killed and resumed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_killed_after_an_epoch_and_resumed_is_as_if_it_had_not_been(
    supernet, teacher, data, cache, rising, family, epoch
):
    whole = network_of(supernet, family)
    tune(whole, teacher, data)
    with pytest.raises(Killed):
        tune(network_of(supernet, family), teacher, data, kill=epoch * STEPS + 1, cache=cache, key=KEY)
    resumed = network_of(supernet, family)
    assert tune(resumed, teacher, data, cache=cache, key=KEY) == EPOCHS * STEPS  # told of all, taken or not
    assert_equal(resumed, state_of(whole))


def test_dropout_too_goes_on_where_it_was(supernet, teacher, data, cache, rising):
    whole = network_of(supernet, dropout=0.5)
    tune(whole, teacher, data)
    with pytest.raises(Killed):
        tune(network_of(supernet, dropout=0.5), teacher, data, kill=2 * STEPS + 2, cache=cache, key=KEY)
    resumed = network_of(supernet, dropout=0.5)
    tune(resumed, teacher, data, cache=cache, key=KEY)
    assert_equal(resumed, state_of(whole))


def test_killed_again_and_again(supernet, teacher, data, cache):
    """With accuracies as they are."""
    whole, resumed = network_of(supernet), network_of(supernet)
    tune(whole, teacher, data)
    for kill in (STEPS + 1, 2 * STEPS + 2, 3 * STEPS + 3):
        resumed = network_of(supernet)
        with pytest.raises(Killed):
            tune(resumed, teacher, data, kill=kill, cache=cache, key=KEY)
    tune(resumed, teacher, data, cache=cache, key=KEY)  # in whatever state the kill has left it
    assert_equal(resumed, state_of(whole))


def test_no_epoch_is_trained_twice(supernet, teacher, data, cache, scripted):
    scripted(*[0.5] * EPOCHS)
    with pytest.raises(Killed):
        tune(network_of(supernet), teacher, data, kill=2 * STEPS + 1, cache=cache, key=KEY)
    seen = scripted(*[0.5] * EPOCHS)
    tune(network_of(supernet), teacher, data, cache=cache, key=KEY)
    assert len(seen) == EPOCHS - 2


@pytest.mark.parametrize("kill", [1, STEPS])
def test_killed_in_the_first_epoch_starts_anew(supernet, teacher, data, cache, kill):
    whole, resumed = network_of(supernet), network_of(supernet)
    tune(whole, teacher, data)
    with pytest.raises(Killed):
        tune(network_of(supernet), teacher, data, kill=kill, cache=cache, key=KEY)
    assert not cache.path("partial", KEY).exists()
    tune(resumed, teacher, data, cache=cache, key=KEY)
    assert_equal(resumed, state_of(whole))


def test_the_best_weights_and_the_waiting_survive_a_kill(supernet, teacher, data, cache, scripted):
    settings = settings_of(finetune_epochs=6, finetune_patience=3)
    seen = scripted(0.9, 0.5)
    with pytest.raises(Killed):
        tune(network_of(supernet), teacher, data, settings, kill=2 * STEPS + 1, cache=cache, key=KEY)
    best = seen[0]
    later, resumed = scripted(0.6, 0.8, 0.99), network_of(supernet)
    assert tune(resumed, teacher, data, settings, cache=cache, key=KEY) == 4 * STEPS
    assert len(later) == 2  # one was waited before
    assert_equal(resumed, {**state_of(resumed), **weights(best, resumed)})


def test_killed_when_patience_was_at_its_end_trains_no_more(supernet, teacher, data, cache, scripted, monkeypatch):
    settings, recalibrate = settings_of(finetune_patience=1), module.recalibrate
    seen = scripted(0.9, 0.5)

    def killed(*arguments):
        raise Killed

    monkeypatch.setattr(module, "recalibrate", killed)
    with pytest.raises(Killed):
        tune(network_of(supernet), teacher, data, settings, cache=cache, key=KEY)
    monkeypatch.setattr(module, "recalibrate", recalibrate)
    later, resumed = scripted(), network_of(supernet)
    tune(resumed, teacher, data, settings, cache=cache, key=KEY)
    assert later == []
    assert_equal(resumed, {**state_of(resumed), **weights(seen[0], resumed)})


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "text"])
def test_a_damaged_entry_is_ignored(supernet, teacher, data, cache, harm, caplog):
    whole = network_of(supernet)
    tune(whole, teacher, data)
    with pytest.raises(Killed):
        tune(network_of(supernet), teacher, data, kill=2 * STEPS + 1, cache=cache, key=KEY)
    path = cache.path("partial", KEY)
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes({"cut": bytes(content[: len(content) // 2]), "flipped": bytes(content), "empty": b"",
                      "text": b"no tensors here"}[harm])
    resumed = network_of(supernet)
    with caplog.at_level(logging.WARNING):
        tune(resumed, teacher, data, cache=cache, key=KEY)
    assert "is ignored" in caplog.text
    assert_equal(resumed, state_of(whole))


def test_entries_of_others_are_left_alone(supernet, teacher, data, cache):
    with pytest.raises(Killed):
        tune(network_of(supernet), teacher, data, seed=5, kill=2 * STEPS + 1, cache=cache, key="other")
    whole, resumed = network_of(supernet), network_of(supernet)
    tune(whole, teacher, data)
    tune(resumed, teacher, data, cache=cache, key=KEY)
    assert_equal(resumed, state_of(whole))


def test_without_a_cache_nothing_is_written(supernet, teacher, data, cache):
    tune(network_of(supernet), teacher, data)
    assert not list(cache.root.iterdir())


def test_a_whole_network_on_the_device(supernet, teacher, data, cache):
    """A plan without a codec: head alone."""
    plan = Plan(split="output", sparsity=0.5, codec=CodecSetting(kind="none"))
    whole, resumed = supernet.extract(plan), supernet.extract(plan)
    tune(whole, teacher, data)
    with pytest.raises(Killed):
        tune(supernet.extract(plan), teacher, data, kill=2 * STEPS + 1, cache=cache, key=KEY)
    tune(resumed, teacher, data, cache=cache, key=KEY)
    assert_equal(resumed, state_of(whole))


def test_what_a_plan_takes_as_it_comes_is_held(supernet, teacher, data):
    network, images = network_of(supernet, "factorised"), data.normalise(data.train.images)
    recalibrate(network, images, 32)
    batches = [network.symbols(part).numpy() for part in images.split(32)]
    expected = np.mean([FrequencyTables.fit(s, network.quantiser.bits).entropy_bits(s).mean() for s in batches])
    price = network.quantiser.price.item()
    tune(network, teacher, data)
    assert network.quantiser.held_bits.item() == pytest.approx(expected, rel=1e-5)
    assert network.quantiser.price.item() != price  # it is adapted
