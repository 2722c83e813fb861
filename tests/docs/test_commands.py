"""Every command of README and docs is run, in a folder that holds what it names; see `tests/docs/rules.py`."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import PAGES, Command, commands, read
from tests.docs.rules import READ_ONLY, RULES, UNRUN, only_read, rule_for, unrun
from tests.docs.running import read_options, repository_modules, run
from tests.docs.workplace import MAKERS, copied


def collect() -> dict[Command, list[str]]:
    """Every command with the pages that it stands on."""
    found: dict[Command, list[str]] = {}
    for page in PAGES:
        for command in commands(read(page)):
            found.setdefault(command, []).append(page)
    return found


WRITTEN = collect()


def longer(command: Command) -> Command:
    """The fullest form that the pages have of `python -m MODULE`, which names a program rather than a command."""
    if command.words[:2] == ("python", "-m") and len(command.words) == 3:
        forms = [c for c in WRITTEN if c.words[:3] == command.words]
        return max(forms, key=lambda c: len(c.words))
    return command


def distinct() -> dict[Command, Command]:
    """What is really run, with a command that is run so: many a command is the same as another in its smallest form."""
    found: dict[Command, Command] = {}
    for command in sorted({longer(c) for c in WRITTEN if not unrun(c) and not only_read(c)}):
        rule = rule_for(command)
        if rule is not None:
            found.setdefault(rule.applied(command), command)
    return found


def test_every_command_has_a_rule():
    lost = [f"{command} ({', '.join(pages)})" for command, pages in WRITTEN.items()
            if not unrun(command) and not only_read(command) and rule_for(longer(command)) is None]
    assert not lost, ("no rule says how to run these; add a Rule to RULES in tests/docs/rules.py (and what they need "
                      "to tests/docs/workplace.py), or a reason to UNRUN: " + "; ".join(lost))


def test_every_rule_and_reason_is_needed():
    texts = [" ".join(c.words) for c in WRITTEN]
    used = {rule_for(longer(c)) for c in WRITTEN if not unrun(c) and not only_read(c)}
    assert [rule.match for rule in RULES if rule not in used] == []
    assert [p for p in UNRUN if not any(re.fullmatch(p, text) for text in texts)] == []
    assert [rule.match for rule in RULES if (rule.change or rule.add or rule.made_up) and not rule.why] == []
    assert set(MAKERS) <= {str(c) for c in WRITTEN}
    assert set(READ_ONLY) <= {c.words[2].removeprefix("benchmarks.") for c in WRITTEN if only_read(c)}


@pytest.mark.parametrize("command", distinct().values(), ids=str)
def test_it_runs(command, made, world, tmp_path, monkeypatch):
    rule, (folder, said) = rule_for(command), made
    if (known := said.get(rule.applied(command))) is not None:  # it made what lies there
        done, here = known, folder
    else:
        here = copied(folder, tmp_path / "here")
        monkeypatch.chdir(here)
        monkeypatch.setenv("AUTOSPLIT_CACHE", str(world.cache))
        repository_modules(monkeypatch)
        done = run(command, monkeypatch)
    assert done.code == rule.code, f"{done.command}: {done.err or done.out}"
    assert re.search(rule.says, done.out), f"{done.command}: {done.out}"
    options = dict(zip(done.command.words, done.command.words[1:], strict=False))  # the last of two of one name
    for value in (options[name] for name in ("--out", "--make-keys", "--figures") if name in options):
        assert (here / command.folder / value).exists(), f"{done.command} wrote no {value}"


@pytest.mark.parametrize("command", sorted({longer(c) for c in WRITTEN if only_read(c)}), ids=str)
def test_the_options_of_a_long_benchmark_are_read(command, monkeypatch):
    repository_modules(monkeypatch)
    assert read_options(command, monkeypatch) == ""


def test_a_wrong_option_of_a_long_benchmark_is_found(monkeypatch):
    (command,) = commands("`python -m benchmarks.layerwise --scenaro cifar10`")
    assert "scenaro" in read_options(command, monkeypatch)


# --- how commands are read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [
    ("```\n$ A=/tmp/a autosplit search --set space.bits='[2, 4]' \\\n    --quiet > log  # x\n```",
     ["A=/tmp/a autosplit search --set 'space.bits=[2, 4]' --quiet"]),
    ("```sh\npip install . && autosplit list\n```", ["pip install .", "autosplit list"]),
    ("```sh\ncd bundle\npython -m coinference check | head\n```", ["cd bundle && python -m coinference check"]),
    ("    rate = bandwidth * log2(1 + snr)\n    autosplit show RUN", ["autosplit show RUN"]),
    ("`autosplit` is, `autosplit.search` too, `autosplit/core/plan.py`; `autosplit list\ndevices` is run",
     ["autosplit list devices"]),
    ("```python\nautosplit.search()\n```\nthe python -m of prose", []),
])
def test_commands_are_read_as_a_shell_would(text, expected):
    assert [str(c) for c in commands(text)] == expected


def test_a_command_that_no_rule_is_for_is_told():
    (command,) = commands("`autosplit dance --slowly`")
    assert rule_for(command) is None
    assert not unrun(command)


def test_a_rule_whose_words_are_gone_is_told():
    (command,) = commands("`autosplit infer bundle photo.png --edg x:1`")
    with pytest.raises(AssertionError, match="is not in it any more"):
        rule_for(command).applied(command)


def test_there_are_commands_to_run():
    assert len(WRITTEN) > 90
    assert len(distinct()) > 50
