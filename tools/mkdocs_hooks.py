"""Brings the pages at the top of the repository into the site, and turns links to them into links within it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
#: File at the top of the repository -> its page of the site.
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}
#: A link to a line of the source.
_SOURCE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:mqttws|pubsub|sigv4|tests)/[^)]*\)")
_NAMES = "|".join(map(re.escape, PAGES))


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    for name, page in PAGES.items():
        text = re.sub(rf"\]\(({_NAMES})", lambda match: f"]({PAGES[match[1]]}", (ROOT / name).read_text("utf-8"))
        files.append(File.generated(config, page, content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn `../SECURITY.md`, as a page in docs/ has it, into the page of the site: one folder less to go up.

    Links to the source are for readers of the repository; the site, which does not hold it, shows their text.
    """
    markdown = _SOURCE.sub(r"\1", markdown)
    return re.sub(rf"\]\(\.\./((?:\.\./)*)({_NAMES})", lambda match: f"]({match[1]}{PAGES[match[2]]}", markdown)
