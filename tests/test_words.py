"""Code, messages and pages use the field's words; what has another name there does not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

INSTEAD = {
    r"trivial deployments?|contestants?|\brivals?\b": "baseline",
    r"foretold|foretells?|foretelling": "predicted",
    r"promise[sd]?\b": "predicted, measured; or the rule that is kept",
    r"workshops?\b": "context",
    r"judge[sd]?\b|judging": "scorer",
    r"(?<!log-)\bodds\b": "logit, log-odds",
    r"\bmerits?\b": "acquisition value",
    r"\boptimism\b": "UCB weight",
    r"first design": "initial design",
    r"shortlists?\b": "candidate plans",
    r"late by a hair|\blateness\b": "over the deadline, tardiness",
    r"\bhaste\b": "tie-break for lower latency",
    r"\bluck\b": "uniform draws",
    r"(?<!of )\bcourses?\b": "rate process, search curve",
    r"without headers|headers left out|jpeg-body": "JPEG with shared tables",
    r"\bMemoEvaluator|StoredEvaluator|\bmemos?\b": "cache, cached evaluator",
    r"keeps? the books": "tracks state",
    r"told in one line": "errors are one line",
    r"\bno talk\b": "no progress output",
    r"is there without any": "needs no measurements",
    r"\brungs?\b": "fidelity: proxy accuracy (F1), fine-tuned accuracy (F3)",
}

# other meanings of the same letters
FOREIGN = re.compile(r"Promise\.all|copy\.deepcopy\(head, memo\)|memo of deepcopy|memo: dict\[int, Any\]|memo \|= ")


def texts():
    folders = ("autosplit", "envs", "agents", "configs", "benchmarks", "examples", "docs", "tests")
    files = [f for folder in folders for f in (ROOT / folder).rglob("*")
             if f.suffix in {".py", ".md", ".j2", ".js", ".css", ".yaml"}]
    for file in [*files, *ROOT.glob("*.md"), *ROOT.glob("results/*.md")]:
        if file != Path(__file__) and "__pycache__" not in file.parts:
            yield file.relative_to(ROOT), file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def lines():
    return [(f"{name}:{number}", line) for name, text in texts() for number, line in enumerate(text.splitlines(), 1)
            if not FOREIGN.search(line)]


@pytest.mark.parametrize("words", INSTEAD)
def test_words_of_the_field(lines, words):
    pattern = re.compile(words, re.IGNORECASE)
    found = [f"{where}: {line.strip()[:100]}" for where, line in lines if pattern.search(line)]
    assert not found, f"write {INSTEAD[words]!r} in:\n" + "\n".join(found[:20])


def test_a_word_that_comes_back_is_found():
    pattern = re.compile(next(iter(INSTEAD)), re.IGNORECASE)
    assert pattern.search("the best Rival of all")
    assert not pattern.search("its arrival")
