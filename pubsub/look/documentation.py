"""Links from the page to the documentation: statements of the standard, code and tests.

A link is made from a template, because the script of the page makes it: `{chapter}` and `{anchor}` of a statement,
`{path}` and `{name}` of a function or a test.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata
from urllib.parse import urlsplit

_DISTRIBUTION = "mqttws-pubsub"
#: The documentation as a repository shows its files, instead of the site that `make docs` builds.
_IN_REPOSITORY = "docs/index.md"


def published() -> str | None:
    """Return the URL of the documentation in the metadata of the installed distribution, or None."""
    try:
        entries = metadata(_DISTRIBUTION).get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    urls = {label.strip().lower(): url.strip() for label, _, url in (entry.partition(",") for entry in entries)}
    return urls.get("documentation")


def templates(url: str | None) -> dict[str, str]:
    """Return the templates of the links, by kind: `statement` and `code`.

    Args:
        url: Of the documentation, over http, https or file: a site of `make docs`, or `docs/index.md` in a repository.
            None: the published one; without one there are no links.

    Raises:
        ValueError: The URL has another scheme, or no host.
    """
    if url is None:
        url = published()
    if url is None:
        return {}
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "file") or not (parts.netloc or parts.scheme == "file"):
        raise ValueError(f"{url!r} is not the URL of documentation: https://docs.example/mqttws/, for example")
    base = parts._replace(query="", fragment="").geturl()
    if base.endswith(_IN_REPOSITORY):
        root = base.removesuffix(_IN_REPOSITORY)
        return {"statement": root + "docs/conformance/{chapter}.md#{anchor}", "code": root + "{path}"}
    base = base.removesuffix("index.html").rstrip("/") + "/"
    return {
        "statement": base + "conformance/{chapter}/index.html#{anchor}",
        "code": base + "source/{path}.html#{name}",
    }
