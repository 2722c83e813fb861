"""A table of paths and classes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from autosplit.core.errors import DataError
from autosplit.data import load_dataset

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for colour, base in COLOURS.items():
        for i in range(12):
            noise = rng.integers(0, 40, (10, 10, 3))
            Image.fromarray((noise + base).astype(np.uint8)).save(tmp_path / "pictures" / f"{colour}{i}.png")
    return tmp_path


def table(folder, rows, header="path,label"):
    file = folder / "table.csv"
    file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return f"image-csv:{file}"


ROWS = [f"pictures/{colour}{i}.png,{colour}" for i in range(12) for colour in COLOURS]


def test_pictures_and_classes(folder):
    data = load_dataset(table(folder, ROWS))
    assert data.class_names == ("green", "red")
    assert data.shape == (3, 10, 10)
    sizes = [len(data.split(part)) for part in ("train", "calibration", "validation", "test")]
    assert sum(sizes) == 24
    assert min(sizes) >= 2
    for part in ("train", "test"):
        images, labels = data.split(part).images, data.split(part).labels
        assert (images[:, 0].float().mean((1, 2)) > 100).tolist() == (labels == 1).tolist()


def test_parts_numbers_other_names_and_a_byte_order_mark(folder):
    rows = [f"pictures/{c}{i}.png,{7 if c == 'red' else 10},{'Test' if i > 8 else 'train'}"
            for i in range(12) for c in COLOURS]
    data = load_dataset(table(folder, rows, "\ufeffFile,Class,Split"))
    assert data.class_names == ("7", "10")
    assert len(data.test) == 6
    assert load_dataset(table(folder, rows, "File,Class,Split"), image_size=8).shape == (3, 8, 8)


@pytest.mark.parametrize(("rows", "header", "message"), [
    (ROWS, "where,what", r"its columns are 'where', 'what'; one must be called 'path', one 'label'"),
    ([*ROWS, "pictures/none.png,red"], "path,label", r"line 26: there is no picture '.*none\.png'"),
    ([*ROWS, "pictures/red0.png,red|green"], "path,label", "line 26: .* has several classes"),
    ([*ROWS, "pictures/red0.png,red,green"], "path,label", "line 26: .* has several classes"),
    ([*ROWS, "pictures/red0.png,"], "path,label", "line 26: it has no class"),
    ([*ROWS, "table.csv,red"], "path,label", r"line 26: picture '.*table\.csv' cannot be read"),
    ([f"{row},holdout" for row in ROWS], "path,label,split", "part 'holdout' is none of train"),
    ([row for row in ROWS if row.endswith("red")], "path,label", "all 12 pictures belong to class 'red'"),
    ([], "path,label", "it names no pictures"),
])
def test_what_is_wrong_is_told_with_its_line(folder, rows, header, message):
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(table(folder, rows, header))
    assert "\n" not in str(caught.value)


def test_no_such_table(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_dataset(f"image-csv:{tmp_path / 'none.csv'}")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators(folder, separator):
    rows = [row.replace(",", separator) for row in ROWS]
    data = load_dataset(table(folder, rows, f"path{separator}label"))
    assert data.fingerprint == load_dataset(table(folder, ROWS)).fingerprint
