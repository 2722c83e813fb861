"""A hook of mkdocs: files of the repository that pages link to, such as `../examples/data.py`, become part of the site.

Links are relative, so that they also work where the repository itself is read. On the site such files lie below
`repository/`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_LINK = re.compile(r"(?<=\]\()\.\./([\w./-]+)(?=\))")
_SHOWN_AS_TEXT = {".py": "python", ".yaml": "yaml"}


def on_files(files: Files, config: Any) -> Files:
    """Add every file that a page links to outside of `docs/`."""
    root = Path(config.docs_dir).parent
    names = {name for page in files.documentation_pages() if "/" not in page.src_uri
             for name in _LINK.findall(page.content_string)}
    for name in sorted(names):
        path = root / name
        if language := _SHOWN_AS_TEXT.get(path.suffix):  # a browser would offer the file for download
            text = f"# {name}\n\n````{language}\n{path.read_text(encoding='utf-8')}````\n"
            files.append(File.generated(config, f"repository/{name}.md", content=text))
        else:
            files.append(File.generated(config, f"repository/{name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let the links point to those copies."""
    if "/" in page.file.src_uri:
        return markdown
    return _LINK.sub(lambda m: f"repository/{m[1]}{'.md' * (Path(m[1]).suffix in _SHOWN_AS_TEXT)}", markdown)
