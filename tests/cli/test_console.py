"""What all commands share: help, errors as one line, estimates, what comes next, commands that install packages."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata

import pytest

from autosplit.cli import console, estimate
from autosplit.core.errors import ConfigError
from autosplit.core.extras import install_command
from autosplit.core.scenario import load_scenario
from tests.runs import invoke

COMMANDS = ("search", "compare", "replay", "report", "profile", "export", "adapt", "list", "show", "train-policy",
            "decide", "serve", "gateway", "infer", "bench", "bench table", "bench search", "bench link")


@pytest.mark.parametrize(("words", "told"), [
    ("search --jobs 0", "invalid value for '--jobs': .* 1; `{} search --help`"),
    ("search --budget-ms soon", "invalid value for '--budget-ms': .*; `{} search --help`"),
    ("serve bundle --workers 0", "invalid value for '--workers': .* 1; `{} serve --help`"),
    ("bench table", "missing option '--out'; `{} bench table --help`"),
    ("bench tabel", "no such command 'tabel'.*`{} bench --help`"),
    ("search --bogus", "no such option: --bogus.*`{} search --help`"),
    ("--debug", "invalid value: no command is named; `{} --help`"),
])
def test_a_wrong_option_is_one_line_that_names_the_help(words, told):
    done = invoke(*words.split())
    assert (done.exit_code, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: {told.format('autosplit')} lists what it takes\n", done.stderr)


def test_groups_without_a_command_show_their_help():
    for words in ((), ("bench",)):
        done = invoke(*words)
        assert done.exit_code == 2
        assert "Commands:" in done.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_of_both_names(command):
    short, long = (invoke(*command.split(), flag) for flag in ("-h", "--help"))
    assert (short.exit_code, short.stderr) == (0, "")
    assert short.stdout == long.stdout
    assert short.stdout.startswith("Usage: ")


def test_python_dash_m_is_the_same_command_line():
    done = subprocess.run([sys.executable, "-m", "autosplit", "list", "codecs"], capture_output=True, text=True,
                          check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == invoke("list", "codecs").stdout


def test_an_error_is_one_line_of_printable_characters(capsys):
    @console.reported
    def command() -> None:
        raise ConfigError("a\nb \x1b[31m" + 1000 * "x" + "; do that")

    with pytest.raises(console.typer.Exit):
        command()
    line = capsys.readouterr().err
    assert line.startswith("error: a b \\x1b[31mxxx")
    assert " ... " in line  # the end, where the remedy stands, is kept
    assert line.endswith("; do that\n")
    assert len(line) == 501


@pytest.mark.parametrize(("started", "named"), [
    ("/usr/bin/autosplit", "autosplit"), ("/lib/autosplit/__main__.py", "python -m autosplit")])
def test_the_next_command_is_spelt_as_this_one_was(monkeypatch, capsys, started, named):
    monkeypatch.setattr(sys, "argv", [started])
    console.say_next("report RUN  # one page", "$ cd RUN && ls")
    assert capsys.readouterr().err == f"next: {named} report RUN  # one page\nnext: cd RUN && ls\n"


def test_packages_are_named_instead_of_an_extra_of_no_index(monkeypatch):
    known = ['onnx>=1.16; extra == "deploy"', "weights-package==0.1.0 ; extra == 'imagenet'", "torch>=2",
             'autosplit[deploy]; extra == "test"', 'pytest>=8; extra == "test"', 'pyzmq>=25; extra == "deploy"']
    monkeypatch.setattr(metadata, "requires", lambda name: known)
    assert install_command("deploy") == "pip install onnx pyzmq"
    assert install_command("imagenet") == "pip install weights-package==0.1.0"
    assert install_command("test") == "pip install pytest"

    def missing(name):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", missing)
    assert install_command("deploy") == "pip install '.[deploy]' in a clone of autosplit"


# --- estimates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "words"), [
    (0.2, "about 1 second"), (40, "about 40 seconds"), (89, "about 89 seconds"), (170, "about 3 minutes"),
    (5300, "about 88 minutes"), (9000, "about 2 hours")])
def test_times_as_a_person_says_them(seconds, words):
    assert estimate.duration(seconds) == words


def test_a_search_is_as_many_passes_as_its_record_says():
    scenario = load_scenario()
    images = estimate.count_images(scenario, None)
    assert images.train == 12_000
    # results/best.json: 96 s of preparation, then 55 s of measuring and fine-tuning (two cores)
    assert 4000 < estimate.training_passes(scenario, images) / 96.2 < 5000
    assert 4000 < estimate.search_passes(scenario, images) / 55.3 < 5500
    given = scenario.replace(weights="some.safetensors")
    assert estimate.training_passes(scenario, images) - estimate.training_passes(given, images) == 5 * 3 * 12_000


def test_an_estimate_says_what_is_done_and_for_how_long(monkeypatch):
    monkeypatch.setattr(estimate, "passes_per_second", lambda scenario, images: 4000.0)
    scenario = load_scenario()
    assert estimate.estimate_search(scenario, None) == (
        "train the backbone for 5 epochs and the supernet for 3, measure 100 plans, fine-tune 3 of them: about 3 "
        "minutes at the present speed of this machine, less where the cache holds parts of it")
    two = [scenario, scenario.replace(conditions__budget_ms=50)]
    assert estimate.estimate_comparison(two, None).startswith(
        "2 scenarios with 6 baselines from the literature, networks trained for 1 of them: about ")
    assert "the supernet for 3 epochs, measure" in estimate.estimate_search(scenario.replace(weights="w"), None)


def test_plans_of_a_table_are_counted(monkeypatch):
    monkeypatch.setattr(estimate, "passes_per_second", lambda scenario, images: 1e6)
    words = estimate.estimate_table(load_scenario(), None)
    plans = int(words.split("measure about ")[1].split(" plans")[0].replace(",", ""))
    assert 2295 <= plans <= 4000  # equal heads are counted twice


def test_images_of_a_folder_are_counted(world):
    images = estimate.count_images(world.scenario(), None)
    assert (images.side, images.classes) == (16, 3)
    assert images.train == int(0.85 * 0.8 * 240)


def test_speed_is_measured_without_touching_the_random_generator(world):
    import torch

    scenario = world.scenario()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    assert estimate.passes_per_second(scenario, estimate.count_images(scenario, None)) > 1
    assert torch.equal(torch.rand(1), expected)


def test_what_cannot_be_estimated_is_left_to_the_command(world, tmp_path):
    assert estimate.estimate_search(world.scenario(dataset="image-folder:/nowhere"), None) is None
    assert estimate.estimate_search(world.scenario(backbone="gone.py:network"), None) is None
    assert estimate.estimate_adapt(tmp_path, 6, None, None) is None
