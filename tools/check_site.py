"""Check the built site: each link and anchor is valid, and no page loads anything from another site.

check_site.py FOLDER
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attribute -> the tags for which it makes a browser load a resource.
LOADED = {"src": {"img", "script", "iframe", "source", "video"}, "href": {"link"}}


class Page(HTMLParser):
    """The links and anchors of a page.

    Attributes:
        links: (target, whether a browser loads it).
        anchors: its ids and names.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[tuple[str, bool]] = []
        self.anchors = {"", "__top"}
        self._canonical = False
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the links and anchors of a tag."""
        found = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := found.get(name))}
        if found.get("rel") in ("canonical", "edit", "prev", "next"):
            return
        for name in ("href", "src"):
            if target := found.get(name):
                self.links.append((target, tag in LOADED[name]))


def main() -> None:
    """Check all pages of a folder."""
    root = Path(sys.argv[1]).resolve()
    pages = {path: Page(path) for path in sorted(root.rglob("*.html"))}
    faults = []
    for path, page in pages.items():
        for target, loaded in page.links:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if loaded and parts.scheme != "data":
                    faults.append(f"{path.relative_to(root)} loads {target}")
                continue
            to = (
                root / unquote(parts.path).lstrip("/")
                if parts.path.startswith("/")
                else path.parent / unquote(parts.path)
            )
            to = (path if not parts.path else to).resolve()
            to = to / "index.html" if to.is_dir() else to
            if not to.exists():
                faults.append(f"{path.relative_to(root)} links to {target}, which does not exist")
            elif parts.fragment and to in pages and unquote(parts.fragment) not in pages[to].anchors:
                faults.append(f"{path.relative_to(root)} links to {target}, which has no such anchor")
    print(f"{len(pages)} pages, {sum(len(page.links) for page in pages.values())} links, {len(faults)} faults")
    sys.exit("\n".join(faults[:50]) if faults else None)


if __name__ == "__main__":
    main()
