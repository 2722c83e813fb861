"""The pages say what the code does: schema, commands, links, scenario keys, Python snippets.

Run as a module (`python -m tests.test_docs`) it writes the schemas in docs/ anew.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel

from autosplit.cli.app import app
from autosplit.latency.profiles import ChannelProfile, DeviceProfile
from autosplit.results import json_schema
from autosplit.runtime.export import json_schema as bundle_schema
from autosplit.scenario import Conditions, Scenario, SearchSettings, SearchSpace, TrainingSettings

ROOT = Path(__file__).parents[1]
SCHEMAS = {"result.schema.json": json_schema, "bundle.schema.json": bundle_schema}
PAGES = sorted({"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "results/README.md",
                *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))})
DATA_LANGUAGES = {"python", "yaml", "toml", "json"}
MODELS: dict[str, type[BaseModel]] = {
    "": Scenario, "conditions.": Conditions, "space.": SearchSpace, "training.": TrainingSettings,
    "search.": SearchSettings,
}


def read(page: str) -> str:
    path = ROOT / page
    assert path.is_file(), f"{page} is missing"
    return path.read_text(encoding="utf-8")


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of every fenced block."""
    for match in re.finditer(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", text, re.M | re.S):
        yield match[1], match[2]


def prose(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```[^\n]*$", "", text, flags=re.M | re.S)


# --- commands -------------------------------------------------------------------------------------------------------


def commands(text: str) -> list[str]:
    """Every `autosplit ...` command: in fenced blocks, in indented lines, and in code spans."""
    code = [content for language, content in blocks(text) if language not in DATA_LANGUAGES]
    rest = prose(text)
    code += [line for line in rest.splitlines() if line.startswith("    ")]
    lines = [line for part in code for line in re.sub(r"\\\n\s*", " ", part).splitlines()]
    lines += [span.replace("\n", " ") for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", rest)]
    return [line.strip() for line in lines if re.match(r"\s*(?:\$ )?(?:\w+=\S+ )*autosplit(\s|$)", line)]


def arguments(command: str) -> list[str]:
    """What the shell hands to autosplit: without prompt, variables, comment, pipe and redirection."""
    lexer = shlex.shlex(command.removeprefix("$ "), posix=True, punctuation_chars=True)
    lexer.wordchars += "[],:@%{}+"
    words = list(lexer)
    words = words[words.index("autosplit") + 1:]
    end = next((i for i, word in enumerate(words) if set(word) <= set("();<>|&")), len(words))
    return words[:end]


@pytest.fixture
def parse(monkeypatch):
    """Parse a command line as the console script would, and run nothing; gives the exit code."""
    group: Any = typer.main.get_command(app)
    pending = [group]
    while pending:  # `bench` has commands of its own
        command = pending.pop()
        pending.extend(getattr(command, "commands", {}).values())
        monkeypatch.setattr(command, "callback", lambda **_: None)

    def run(words: list[str]) -> int:
        with pytest.raises(SystemExit) as caught:
            group.main(words, prog_name="autosplit")
        return int(caught.value.code or 0)

    return run


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses(page, parse, capsys):
    wrong = []
    for command in commands(read(page)):
        words = arguments(command)
        if words and parse(words) != 0:
            wrong.append(f"{command}: {capsys.readouterr().err.strip().splitlines()[-1]}")
    assert not wrong


@pytest.mark.parametrize("line", ["    autosplit serch", "`autosplit search --budgetms 3`", "```\nautosplit show\n```",
                                  "```bash\n$ A=1 autosplit search \\\n  --bits 3\n```", "`autosplit list gadgets`"])
def test_a_wrong_command_is_found(line, parse):
    (found,) = commands(line)
    assert parse(arguments(found)) == 2


def test_commands_are_read_as_a_shell_would():
    text = "```\n$ AUTOSPLIT_CACHE=/tmp/a autosplit search --set space.bits='[2, 4]' \\\n    --quiet > log  # x\n```\n"
    assert [arguments(c) for c in commands(text)] == [["search", "--set", "space.bits=[2, 4]", "--quiet"]]
    assert commands("autosplit is a word here, `autosplit.search` and `autosplit/plan.py` are names") == []


def test_there_are_commands_to_test():
    assert sum(len(commands(read(page))) for page in PAGES if page.startswith("docs/")) > 10


# --- links ----------------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """Anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(path.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_points_to_a_file(page):
    text, broken = prose(read(page)), []
    for target in re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)", text, re.M):
        file, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):  # https:, mailto:
            continue
        path = (ROOT / page).parent / file if file else ROOT / page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            broken.append(target)
    assert not broken


def test_the_index_names_every_page():
    index = read("docs/index.md")
    others = [Path(p).name for p in PAGES if p.startswith("docs/") and p != "docs/index.md"]
    assert [name for name in others if f"]({name})" not in index] == []


# --- schema and scenario --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_published_schema_is_that_of_the_code(name):
    assert json.loads(read(f"docs/{name}")) == SCHEMAS[name](), "run python -m tests.test_docs"


def test_every_field_of_the_result_is_explained():
    text = read("docs/results.md")
    assert [name for name in json_schema()["properties"] if f"| `{name}` |" not in text] == []


def test_every_field_of_a_manifest_is_explained():
    text = read("docs/deploying.md")
    assert [name for name in bundle_schema()["properties"] if f"| `{name}` |" not in text] == []


def keys() -> list[tuple[str, Any]]:
    """Every key of a scenario that is no group of others, with its default (`...` = required)."""
    fields = [(prefix + name, info) for prefix, model in MODELS.items() for name, info in model.model_fields.items()]
    return [(key, ... if info.is_required() else info.default) for key, info in fields if f"{key}." not in MODELS]


@pytest.mark.parametrize(("key", "default"), keys(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_scenario_key_is_explained_with_its_default(key, default):
    row = re.search(rf"^\| `{re.escape(key)}` \| (\S[^|]*?) \|", read("docs/scenario.md"), re.M)
    assert row, f"no row for {key}"
    if default is ...:
        assert row[1] == "*required*"
    else:
        written = yaml.safe_load(row[1].strip("`"))
        assert written == (list(default) if isinstance(default, tuple) else default)


def test_scenario_page_has_no_key_that_does_not_exist():
    known = {key for key, _ in keys()}
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", read("docs/scenario.md"), re.M)
    assert rows
    assert set(rows) <= known


@pytest.mark.parametrize("profile", [DeviceProfile, ChannelProfile])
def test_every_profile_key_is_explained(profile):
    text = read("docs/scenario.md")
    assert [name for name in profile.model_fields if f"`{name}`" not in text] == []


def test_the_example_scenario_is_valid(tmp_path, monkeypatch):
    example = next(content for language, content in blocks(read("docs/scenario.md")) if language == "yaml")
    (tmp_path / "my-channel.yaml").write_text((ROOT / "configs/channels/wifi4.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    assert Scenario.from_yaml(example).conditions.budget_ms > 0


# --- Python ---------------------------------------------------------------------------------------------------------


def snippets() -> list[tuple[str, str]]:
    return [(page, code) for page in PAGES if (ROOT / page).is_file()
            for language, code in blocks(read(page)) if language == "python"]


@pytest.mark.parametrize(("page", "code"), snippets(), ids=lambda text: text if text.endswith(".md") else "")
def test_python_snippets_compile_and_import_what_exists(page, code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autosplit"):
            module = importlib.import_module(node.module or "")
            assert [a.name for a in node.names if not hasattr(module, a.name)] == []


if __name__ == "__main__":
    for file, schema in SCHEMAS.items():
        path = ROOT / "docs" / file
        path.write_text(json.dumps(schema(), indent=2) + "\n", encoding="utf-8")
        print(f"wrote {path}")
