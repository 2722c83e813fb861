"""The figures of a comparison: written whole, equal for equal input, readable with one panel and with many."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from autosplit.core.errors import ConfigError
from autosplit.report.comparison_figures import (
    Panel,
    Series,
    accuracy_latency_figure,
    accuracy_payload_figure,
    in_time_figure,
)
from autosplit.report.draw_matplotlib import write_figure
from autosplit.report.style import look

METHODS = ("device", "png", "jpeg", "jpeg-shared", "raw", "two-step", "aecnn", "bottlenet++", "jalad", "entropic",
           "uniform", "autosplit")
FIGURES = (accuracy_payload_figure, accuracy_latency_figure, in_time_figure)


def panel(seed=0, title="stm32l4r5, sub-ghz-fsk-50k, 100 ms"):
    """Twelve methods, most of them close to one another, one far below."""
    draw = np.random.default_rng(seed)
    marks, lines = [], []
    for i, name in enumerate(METHODS):
        ms = float(draw.uniform(60, 110)) if i > 4 else float(draw.uniform(150, 3000))
        accuracy = 0.2 if name == "uniform" else float(draw.uniform(0.93, 0.975))
        marks.append(Series(name, ((ms, accuracy),)))
        lines.append(Series(name, tuple((float(x), float(1 - np.exp(-x / ms))) for x in np.geomspace(5, 2000, 20))))
    return Panel(title, lines=tuple(lines), dots=tuple(lines[:2]), marks=tuple(marks), limit=100.0)


@pytest.mark.parametrize("draw", FIGURES)
@pytest.mark.parametrize("panels", [1, 3])
def test_every_figure_is_written_with_any_number_of_panels(tmp_path, draw, panels):
    path = tmp_path / "new" / "x.png"
    write_figure(draw([panel(i) for i in range(panels)], "A caption. " * 40), path)
    image = imread(path)
    assert min(image.shape[:2]) > 600
    pixels = (image[:, :, :3] * 255).round().astype(int).reshape(-1, 3)
    gold = (np.array(to_rgb(look("autosplit").colour)) * 255).round().astype(int)
    assert (pixels == gold).all(axis=1).sum() > 50 * panels
    border = np.concatenate([image[:4].reshape(-1, 4), image[:, -4:].reshape(-1, 4), image[:, :4].reshape(-1, 4)])
    assert (border == 1).all()  # nothing runs over the edge


def test_equal_input_gives_equal_bytes(tmp_path):
    for name in "ab":
        write_figure(accuracy_payload_figure([panel()], "caption"), tmp_path / f"{name}.png", tmp_path / f"{name}.svg")
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("seed", range(2))
def test_labels_of_a_single_panel_do_not_overlap(tmp_path, drawn_labels, seed):
    write_figure(accuracy_latency_figure([panel(seed)], "caption"), tmp_path / "x.png")
    texts, boxes, _ = zip(*drawn_labels(), strict=True)
    assert len(boxes) == len(METHODS)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert "uniform 50 %, 64x (20 %)" in texts  # below the view: the figure says by how much
    assert look("aecnn").label in texts


def test_many_panels_have_a_legend_instead_of_labels(tmp_path):
    marks = [replace(panel(i), lines=()) for i in range(4)]
    write_figure(accuracy_latency_figure(marks, "caption"), tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    for method in METHODS:
        assert text.count(f">{look(method).label}<") == 1
    assert text.count("budget 100 ms") == 4


def test_lines_and_marks_have_a_legend_each(tmp_path):
    write_figure(accuracy_payload_figure([panel()], "caption"), tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    assert text.count(f">{look('aecnn').label}<") == 2
    assert "frontiers (proxy)" in text
    assert "chosen (fine-tuned)" in text


def test_looks_differ_and_a_stranger_has_one_too():
    known = [look(m) for m in METHODS]
    assert len({(k.colour, k.marker) for k in known}) == len({k.label for k in known}) == len(METHODS)
    assert look("mine").label == "mine"


def test_a_panel_with_nothing_in_it(tmp_path):
    for draw in FIGURES:
        write_figure(draw([Panel("empty")], ""), tmp_path / "x.svg")
        assert ">empty<" in (tmp_path / "x.svg").read_text()


def test_errors_name_the_path(tmp_path):
    with pytest.raises(ConfigError, match=r"x\.bmp: figures are written as \.png"):
        write_figure(in_time_figure([panel()], ""), tmp_path / "x.bmp")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write .*x\.png"):
        write_figure(in_time_figure([panel()], ""), tmp_path / "file" / "x.png")


def test_import_loads_no_matplotlib():
    code = "import sys, autosplit.report.comparison_figures; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"
