import random
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from autosplit.core.errors import ConfigError
from autosplit.report.draw_matplotlib import write_figure
from autosplit.report.figures import tradeoff_figure
from autosplit.report.pareto import pareto_frame, pareto_mask


@pytest.mark.parametrize("seed", range(5))
def test_pareto_mask_agrees_with_brute_force(seed):
    draw = random.Random(seed)
    points = [tuple(draw.randrange(6) for _ in range(3)) for _ in range(60)]
    kept = [not any(all(a <= b for a, b in zip(q, p, strict=True)) and q != p for q in points) for p in points]
    assert pareto_mask(points).tolist() == kept
    assert any(kept)


def test_pareto_frame_holds_exactly_the_undominated_plans(outcomes):
    frame = pareto_frame(outcomes)

    def beats(a, b):
        better = [a.measurement.accuracy - b.measurement.accuracy, b.latency.p95_ms - a.latency.p95_ms,
                  b.latency.energy_mj - a.latency.energy_mj]
        return min(better) >= 0 and max(better) > 0

    latest = list({o.plan: o for o in outcomes}.values())
    expected = {o.plan.label for o in latest if not any(beats(other, o) for other in latest)}
    assert set(frame["plan"]) == expected
    assert frame["p95_ms"].is_monotonic_increasing
    assert frame["accuracy"].is_monotonic_increasing  # energy follows latency in these outcomes


def test_pareto_frame_counts_a_plan_once_with_its_highest_fidelity(make_outcome):
    quick, slow = make_outcome(accuracy=0.95), make_outcome(accuracy=0.93, fidelity="F3")
    frame = pareto_frame([slow, quick, make_outcome("layer2", accuracy=0.94, p50_ms=90.0)])
    assert frame[["fidelity", "accuracy"]].to_numpy().tolist() == [["F3", 0.93], ["F1", 0.94]]


def test_pareto_frame_of_nothing_has_its_columns():
    assert "p95_ms" in pareto_frame([]).columns


def test_figure_shows_something(tmp_path, outcomes, rows, best):
    path = tmp_path / "new" / "tradeoff.png"
    write_figure(tradeoff_figure(outcomes, rows, best), path)
    image = imread(path)
    assert image.shape == (870, 1500, 4)
    assert len(np.unique((image[:, :, 0] * 255).astype(int))) > 50
    assert (image[:, :, :3].min(axis=2) < 0.9).mean() > 0.02


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_equal_input_gives_equal_bytes(tmp_path, rows, make_outcomes, suffix):
    outcomes = make_outcomes(20)
    for name in ("a", "b"):
        write_figure(tradeoff_figure(outcomes, rows, outcomes[0]), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("seed", range(3))
def test_labels_do_not_overlap(drawn_labels, tmp_path, rows, make_outcomes, seed):
    outcomes = make_outcomes(seed=seed)
    write_figure(tradeoff_figure(outcomes, rows, outcomes[0]), tmp_path / "x.png")
    texts, boxes, frames = zip(*drawn_labels(), strict=True)
    assert len(boxes) == len(set(texts)) == sum(row.name in text for row in rows for text in texts) < len(rows)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(f.x0 <= b.x0 and b.x1 <= f.x1 and b.y1 <= f.y1 for b, f in zip(boxes, frames, strict=True))
    assert any("off scale" in text for text in texts)


@pytest.mark.parametrize("count", [0, 1])
def test_figure_of_almost_nothing(tmp_path, make_outcome, count):
    write_figure(tradeoff_figure([make_outcome()] * count, [], make_outcome(p50_ms=300.0)), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_figure_errors_name_the_path(tmp_path, outcomes, rows, best):
    with pytest.raises(ConfigError, match=r"x\.bmp: figures are written as \.png"):
        write_figure(tradeoff_figure(outcomes, rows, best), tmp_path / "x.bmp")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write .*x\.png"):
        write_figure(tradeoff_figure(outcomes, rows, best), tmp_path / "file" / "x.png")


def test_import_loads_neither_matplotlib_nor_pandas():
    code = ("import sys, autosplit.report.draw_matplotlib, autosplit.report.progress; "
            "print({'matplotlib', 'pandas', 'rich'} & {m.split('.')[0] for m in sys.modules})")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"
