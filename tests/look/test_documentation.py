"""The targets of links on the look page: a site, a repository, or none; each statement has its own anchor."""

from __future__ import annotations

from email.message import Message
from importlib.metadata import PackageNotFoundError

import pytest
from ledger import statements

from pubsub.look import documentation
from pubsub.look.documentation import published, templates


@pytest.mark.parametrize(
    ("url", "statement", "code"),
    [
        (
            "https://h/docs",
            "https://h/docs/conformance/{chapter}/index.html#{anchor}",
            "https://h/docs/source/{path}.html#{name}",
        ),
        (
            "file:///srv/site/index.html",
            "file:///srv/site/conformance/{chapter}/index.html#{anchor}",
            "file:///srv/site/source/{path}.html#{name}",
        ),
        (
            "https://h/o/r/blob/v1/docs/index.md",
            "https://h/o/r/blob/v1/docs/conformance/{chapter}.md#{anchor}",
            "https://h/o/r/blob/v1/{path}",
        ),
    ],
)
def test_the_links_for_each_form_of_documentation(url: str, statement: str, code: str) -> None:
    assert templates(url) == {"statement": statement, "code": code}


def test_the_documentation_of_a_release_is_that_of_its_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    released = Message()
    released["Project-URL"] = "Source, https://h/o/r"
    released["Project-URL"] = "Documentation, https://h/o/r/blob/v1/docs/index.md"
    monkeypatch.setattr(documentation, "metadata", lambda name: released)
    assert published() == "https://h/o/r/blob/v1/docs/index.md"
    assert templates(None) == templates("https://h/o/r/blob/v1/docs/index.md")

    def not_installed(name: str) -> Message:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(documentation, "metadata", not_installed)
    assert templates(None) == {}


@pytest.mark.parametrize("url", ["javascript:alert(1)", "docs/", "https:///docs", "data:text/html,x", ""])
def test_invalid_documentation_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not a URL of documentation"):
        templates(url)


def test_no_two_statements_have_the_same_anchor() -> None:
    anchors = [name.lower().replace(".", "") for name in statements()]
    assert len(set(anchors)) == len(anchors)
