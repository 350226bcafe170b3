"""The right-hand cells of the migration pages run, and the first example of each page prints what it should."""

from __future__ import annotations

import asyncio
import io
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mqttws
import mqttws.aio
from mqttws.broker import Broker
from pubsub import AWSIoTProvider, ConnectionState, MqttOverWSProvider, PubSub
from pubsub.aws.cognito import CognitoIdentity
from pubsub.aws.custom_auth import CustomAuthorizer
from pubsub.aws.local.endpoint import LocalIoTEndpoint
from sigv4 import Credentials

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = {page.stem: page.read_text() for page in sorted((DOCS / "migrating").glob("*.md"))}
MESSAGE = mqttws.Publish("a/b", b"x", 1, packet_id=1)


def cells(page: str) -> list[str]:
    """Return the code of the right-hand cells."""
    rows = re.findall(r"^\| .* \| (.*) \|$", PAGES[page], re.M)
    found = [code for row in rows for code in re.findall(r"`([^`]+)`", row)]
    return [code for code in found if code not in ("mqttws", "mqttws.aio", "pubsub", "tls=")]


@contextmanager
def names_of(page: str, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Yield the names that the cells of a page use."""
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_text("")
    names: dict[str, Any] = {"mqttws": mqttws, "message": MESSAGE, "logging": __import__("logging"), "context": None}
    if page in ("paho", "aiomqtt"):
        with Broker() as broker, mqttws.connect(broker.url, manual_ack=True) as client:
            client.publish("kept", b"x", qos=1, retain=True)
            client.subscribe("kept")
            yield names | {"url": broker.url, "client": client}
    elif page == "amplify":
        with Broker() as broker, PubSub(MqttOverWSProvider(aws_pubsub_endpoint=broker.url)) as ps:
            subscription = ps.subscribe("x").subscribe(next=print)
            yield names | {"ps": ps, "subscription": subscription, "AWSIoTProvider": AWSIoTProvider, "PubSub": PubSub,
                           "MqttOverWSProvider": MqttOverWSProvider, "ConnectionState": ConnectionState,
                           "message": SimpleNamespace(value=1, topic="a")}  # fmt: skip
    else:
        with LocalIoTEndpoint() as iot:
            provider = AWSIoTProvider(iot.region, iot.url, iot.credentials)
            with PubSub(provider) as ps:
                subscription = ps.subscribe("x").subscribe(next=print)
                yield names | {"ps": ps, "provider": provider, "endpoint": iot.url, "subscription": subscription,
                               "AWSIoTProvider": AWSIoTProvider, "PubSub": PubSub, "Credentials": Credentials,
                               "CognitoIdentity": CognitoIdentity, "CustomAuthorizer": CustomAuthorizer}  # fmt: skip


#: Cells that require a file of the reader or an external service; they are parsed, and their names resolved.
ONLY_PARSED = re.compile(r"\.pem|aws-exports|amplify_outputs|\bopen\((wait=False)?\)|retry_first")


@pytest.mark.parametrize("page", PAGES)
def test_each_right_hand_cell_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cells(page)
    assert len(found) > 10
    with names_of(page, tmp_path) as names, redirect_stdout(io.StringIO()):
        for code in found:
            compile(code, page, "exec", flags=0) if "await " not in code and "async " not in code else None
            if ONLY_PARSED.search(code):
                continue
            found = dict(names, ps=PubSub()) if "add_pluggable" in code else dict(names)
            try:
                if page == "aiomqtt":
                    asyncio.run(in_asyncio(code, names))
                else:
                    exec(code, found)
            except Exception as error:
                raise AssertionError(f"{page}: {code}: {error!r}") from error
            if page == "paho" and names["client"].state.name == "disconnected":  # a previous cell has closed it
                names["client"].open()


async def in_asyncio(code: str, names: dict[str, Any]) -> None:
    async with mqttws.aio.Client(names["url"]) as client:
        found = dict(names, client=client)
        exec(f"async def run():\n{textwrap.indent(code, '    ')}", found)
        await found["run"]()


@pytest.mark.parametrize("page", PAGES)
def test_the_first_example_runs_unchanged(page: str) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGES[page], re.S | re.M)
    with redirect_stdout(io.StringIO()) as shown:
        exec(block, {"__name__": "__main__"})
    assert shown.getvalue()
