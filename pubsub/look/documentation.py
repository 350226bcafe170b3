"""Links from the web page to the documentation: to statements of the standard, code and tests.

The script of the page makes the links from templates, with `{chapter}` and `{anchor}` of a statement, or `{path}` and
`{name}` of a function or a test.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata
from urllib.parse import urlsplit

_DISTRIBUTION = "mqttws-pubsub"
#: The end of a URL for the documentation in a repository, instead of the site that `make docs` builds.
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
        url: The URL of the documentation, with the scheme http, https or file: a site of `make docs`, or
            `docs/index.md` in a repository. None: that of the published documentation; if there is none, no links.

    Raises:
        ValueError: The URL has another scheme, or no host.
    """
    if url is None:
        url = published()
    if url is None:
        return {}
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "file") or not (parts.netloc or parts.scheme == "file"):
        raise ValueError(f"{url!r} is not a URL of documentation; expected for example https://docs.example/mqttws/")
    base = parts._replace(query="", fragment="").geturl()
    if base.endswith(_IN_REPOSITORY):
        root = base.removesuffix(_IN_REPOSITORY)
        return {"statement": root + "docs/conformance/{chapter}.md#{anchor}", "code": root + "{path}"}
    base = base.removesuffix("index.html").rstrip("/") + "/"
    return {
        "statement": base + "conformance/{chapter}/index.html#{anchor}",
        "code": base + "source/{path}.html#{name}",
    }
