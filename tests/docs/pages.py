"""Reading the pages: their blocks, their commands, their Python."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted({"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "results/README.md",
                *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))} - {"docs/cli.md"})
DATA_LANGUAGES = {"python", "yaml", "toml", "json"}
PROGRAMS = {"autosplit", "python", "python3", "pip", "cd", "optuna-dashboard", "tensorboard", "ruff", "mypy",
            "pre-commit", "lint-imports", "mkdocs"}
"""First words that make a line or a code span a command."""

_OPERATORS = set("();<>|&")


@dataclass(frozen=True, order=True)
class Command:
    """A simple command as a shell would run it: without prompt, comment, pipe and redirection.

    Attributes:
        words: The program and its arguments.
        folder: Where `cd` went before it, in the same block or line.
        variables: Of the environment, set in front of it.
    """

    words: tuple[str, ...]
    folder: str = ""
    variables: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        assigned = [f"{name}={value}" for name, value in self.variables]
        return ("" if not self.folder else f"cd {self.folder} && ") + shlex.join([*assigned, *self.words])


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


def commands(text: str) -> list[Command]:
    """Every command: in fenced blocks, in indented lines, and in code spans that are more than a program's name."""
    rest = prose(text)
    parts = [content for language, content in blocks(text) if language not in DATA_LANGUAGES]
    parts += [line for line in rest.splitlines() if line.startswith("    ")]
    spans = [span.replace("\n", " ") for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", rest)]
    found = [command for part in parts for command in _of_block(part)]
    return found + [c for span in spans for c in _of_block(span) if len(c.words) > 1]


def _of_block(block: str) -> Iterator[Command]:
    """The commands of some lines; `cd` holds from line to line."""
    folder = ""
    for line in re.sub(r"\\\n\s*", " ", block).splitlines():
        for words in _simple(line.strip().removeprefix("$ ")):
            assigned = [w for w in words if re.match(r"[A-Z_]+=", w)]
            program = words[len(assigned):]
            if not program or program[0] not in PROGRAMS or words[:len(assigned)] != assigned:
                break  # prose, a formula, or `a | b` of programs that are none of ours
            if program[0] == "cd":
                folder = program[1]
                continue
            yield Command(tuple(program), folder, tuple((n, v) for n, _, v in (w.partition("=") for w in assigned)))


def _simple(line: str) -> Iterator[list[str]]:
    """What stands between `&&`, `;` and `|` of a line, each without redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.wordchars += "[],:@%{}+"
    try:
        words = list(lexer)
    except ValueError:  # an apostrophe in prose
        return
    part: list[str] = []
    redirected = False
    for word in [*words, ";"]:
        if set(word) <= _OPERATORS:
            redirected = set(word) <= set("<>")
            if not redirected:
                yield part
                part = []
        elif not redirected:
            part.append(word)


def snippets(page: str) -> list[str]:
    """The Python of a page, in order."""
    return [code for language, code in blocks(read(page)) if language == "python"]
