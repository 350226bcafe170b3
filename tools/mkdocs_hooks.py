"""Hooks of the site: pages from the top of the repository, source pages, and links to both."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import source_pages  # noqa: E402

#: File at the top of the repository -> its page of the site.
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}
_NAMES = "|".join(map(re.escape, PAGES))
#: A link to the source: its label, the folders to go up, one of which leaves docs/, the file, and the line.
_SOURCE = re.compile(r"\[([^]]+)\]\(\.\./((?:\.\./)*)((?:mqttws|pubsub|sigv4|tests)/[^)#]*\.py)(?:#L(\d+))?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    for name, page in PAGES.items():
        text = re.sub(rf"\]\(({_NAMES})", lambda match: f"]({PAGES[match[1]]}", (ROOT / name).read_text("utf-8"))
        files.append(File.generated(config, page, content=text.replace("](docs/", "](")))
    texts = (Path(file.abs_src_path).read_text("utf-8") for file in files.documentation_pages() if file.abs_src_path)
    linked = {match[3] for text in texts for match in _SOURCE.finditer(text)}
    for path, content in source_pages.files(ROOT, linked | source_pages.explained()).items():
        files.append(File.generated(config, f"source/{path}", content=content))
    return files


def options() -> str:
    """Return the options of each command, as its --help has them."""
    from pubsub.cli import COMMANDS
    from pubsub.cli.parsers import commands_of, make_parser

    os.environ["COLUMNS"] = "100"
    parsers = commands_of(make_parser(*COMMANDS))
    return "\n".join(f"### pubsub {name}\n\n```text\n{parser.format_help()}```\n" for name, parser in parsers.items())


def _source_link(match: re.Match[str]) -> str:
    label, up, path, line = match.groups()
    anchor = source_pages.anchor(ROOT, path, label, int(line or 0))
    return f"[{label}]({up}source/{path}.html{'#' if anchor else ''}{anchor})"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links out of docs/ into links within the site: `../SECURITY.md`, and `../mqttws/url.py#L12`."""
    if page.file.src_uri == "commands.md":
        text, mark, end = markdown.rpartition("**Next:**")
        markdown = f"{text}## All options\n\n{options()}\n{mark}{end}"
    markdown = _SOURCE.sub(_source_link, markdown)
    return re.sub(rf"\]\(\.\./((?:\.\./)*)({_NAMES})", lambda match: f"]({match[1]}{PAGES[match[2]]}", markdown)
