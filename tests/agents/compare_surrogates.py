"""Which surrogate? Prints the table of `docs/comparison.md`: `python -m tests.agents.compare_surrogates`."""

from __future__ import annotations

import time

import numpy as np
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor

from autosplit.agents.surrogate import AccuracySurrogate
from autosplit.envs.features import plan_features
from tests.synthetic import make_table


def gaussian_process(features, known, accuracy):
    surrogate = AccuracySurrogate(features)
    surrogate.fit(known, accuracy)
    return surrogate.estimate()


def extra_trees(features, known, accuracy):
    return ExtraTreesRegressor(200, random_state=0).fit(features[known], accuracy).predict(features)


def main() -> None:
    table = make_table()
    accuracy = np.array([m.accuracy for m in table.measurements])
    features = plan_features(table.space, table.workloads(table.space.plans()))
    print("| measurements | surrogate | rank correlation | in the top fifth | seconds |")
    for size in (25, 50, 100, 150):
        for model in (gaussian_process, extra_trees):
            everywhere, top, start = [], [], time.perf_counter()
            for seed in range(5):
                order = np.random.default_rng(seed).permutation(len(accuracy))
                known, left = order[:size], order[size:]
                estimate, truth = model(features, known, accuracy[known])[left], accuracy[left]
                best = truth >= np.quantile(truth, 0.8)
                everywhere.append(spearmanr(estimate, truth)[0])
                top.append(spearmanr(estimate[best], truth[best])[0])
            seconds = (time.perf_counter() - start) / 5
            print(f"| {size} | {model.__name__} | {np.mean(everywhere):.3f} | {np.mean(top):.3f} | {seconds:.2f} |")


if __name__ == "__main__":
    main()
