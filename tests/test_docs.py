"""The pages say what the code does: schema, commands, links, scenario keys, Python snippets.

`tests/docs` runs their commands and their Python. Run as a module (`python -m tests.test_docs`) it writes the schemas
in docs/ anew.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel

from autosplit.cli.app import app
from autosplit.core.conditions import Conditions
from autosplit.core.profiles import ChannelProfile, DeviceProfile
from autosplit.core.result import json_schema
from autosplit.core.scenario import Scenario, SearchSettings, SearchSpace, TrainingSettings
from autosplit.runtime.export import json_schema as bundle_schema
from tests.docs.cli_page import cli_page
from tests.docs.pages import PAGES, ROOT, blocks, commands, prose, read

SCHEMAS = {"result.schema.json": json_schema, "bundle.schema.json": bundle_schema}
EXAMPLES = sorted(f"examples/{p.name}" for p in (ROOT / "examples").glob("*.py"))
MODELS: dict[str, type[BaseModel]] = {
    "": Scenario, "conditions.": Conditions, "space.": SearchSpace, "training.": TrainingSettings,
    "search.": SearchSettings,
}


# --- commands -------------------------------------------------------------------------------------------------------


def arguments(text: str) -> list[list[str]]:
    """What the shell hands to autosplit, for every such command."""
    return [list(c.words[1:]) for c in commands(text) if c.words[0] == "autosplit"]


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


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES])
def test_every_command_parses(page, parse, capsys):
    wrong = []
    for words in arguments(read(page)):
        if parse(words) != 0:
            wrong.append(f"{words}: {capsys.readouterr().err.strip().splitlines()[-1]}")
    assert not wrong


@pytest.mark.parametrize("line", ["    autosplit serch", "`autosplit search --budgetms 3`", "```\nautosplit show\n```",
                                  "```bash\n$ A=1 autosplit search \\\n  --bits 3\n```", "`autosplit list gadgets`"])
def test_a_wrong_command_is_found(line, parse):
    (found,) = arguments(line)
    assert parse(found) == 2


def test_the_page_of_the_command_line_is_that_of_the_code():
    assert read("docs/cli.md") == cli_page(), "run python -m tests.test_docs"


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


# --- names and files ------------------------------------------------------------------------------------------------

ENTRY_POINTS = {"autosplit.backbones", "autosplit.latency_models", "autosplit.layerwise_agents", "autosplit.codecs"}


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or a member of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("page", [*PAGES, *(f"docs/reference/{p.name}" for p in (ROOT / "docs/reference").glob("*"))])
def test_every_name_of_the_package_exists(page):
    text = read(page)
    names = set(re.findall(r"`(autosplit(?:\.\w+)+)`|^::: (\S+)", text, re.M))
    named = {a or b for a, b in names} - ENTRY_POINTS
    assert [name for name in sorted(named) if not exists(name)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_the_repository_exists(page):
    folders = "autosplit|agents|envs|configs|examples|benchmarks|tests|docs"
    named = re.findall(rf"`((?:{folders})/(?!CoInference|Stream-v|Fleet-v)[\w./-]+)(?::\w+)?`", read(page))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_rooms_are_those_of_the_package():
    table = read("docs/architecture.md").split("## The rooms")[1].split("\n## ")[0]
    rooms = re.findall(r"^\| `(\w+)` \|[^|]+\| (.+) \|$", table, re.M)
    assert {room for room, _ in rooms} == {p.parent.name for p in (ROOT / "autosplit").glob("*/__init__.py")}
    assert [(room, file) for room, files in rooms for file in re.findall(r"`([^`]+)`", files)
            if not (ROOT / "autosplit" / room / file).exists()] == []


# --- schema and scenario --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_published_schema_is_that_of_the_code(name):
    assert json.loads(read(f"docs/{name}")) == SCHEMAS[name](), "run python -m tests.test_docs"


def test_every_field_of_the_result_is_explained():
    text = read("docs/results.md")
    assert [name for name in json_schema()["properties"] if f"| `{name}` |" not in text] == []


def test_every_field_of_a_manifest_is_explained():
    text = read("docs/results.md")
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


if __name__ == "__main__":
    for file, schema in SCHEMAS.items():
        path = ROOT / "docs" / file
        path.write_text(json.dumps(schema(), indent=2) + "\n", encoding="utf-8")
        print(f"wrote {path}")
    (ROOT / "docs" / "cli.md").write_text(cli_page(), encoding="utf-8")
