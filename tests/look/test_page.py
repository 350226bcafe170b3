"""The look page in a real browser: Debian's headless Chromium, driven by selenium."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import mqttws
from mqttws.broker import Broker
from mqttws.tap import Record, Tap
from pubsub.cli.serve_look import _state
from pubsub.look.documentation import published
from pubsub.look.live import show_page
from pubsub.look.saving import saver_for
from pubsub.look.web import Page
from sigv4 import Credentials, presign_iot_url

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    if os.environ.get("CI") == "true":
        pytest.fail("Chromium and its driver are missing: apt-get install chromium chromium-driver", pytrace=False)
    pytest.skip("Chromium and its driver are not installed", allow_module_level=True)

PATIENCE = 120.0
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,800",
]
#: A key, and the record that it selects.
KEYS = [
    *(("Home", "open"), ("j", "GET"), ("ArrowDown", "101"), ("k", "GET"), ("j", "101"), ("j", "CONNECT")),
    *(("a", "CONNACK"), ("a", "CONNECT"), ("End", "")),
]
#: The directory of the pictures of docs/.
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
EVIL = "<img src=x onerror=alert(1)></script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


class Look:
    """A page in the browser."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.get_log("browser")
        browser.get(url)

    def run(self, script: str) -> Any:
        return self.browser.execute_script(script)

    def until(self, script: str) -> Any:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if value := self.run(f"return {script}"):
                return value
        raise AssertionError(f"never came true: {script}; {self.complaints()}")

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser") if "favicon" not in entry["message"]]

    def rows(self) -> list[str]:
        return self.run(
            "return [...document.querySelectorAll('.row')].map((row) => row.innerText.replace(/\\s+/g, ' '))"
        )

    def choose(self, name: str) -> None:
        self.until(
            f"[...document.querySelectorAll('.row')].some((row) => row.children[3].innerText.endsWith('{name}'))"
        )
        rows = "[...document.querySelectorAll('.row')]"
        self.run(f"{rows}.find((row) => row.children[3].innerText.endsWith('{name}')).click()")
        self.until(f"document.querySelector('#detail h2')?.innerText.startsWith('{name}')")

    def picture(self, name: str, config: pytest.Config) -> None:
        """Take a screenshot; with `--write-docs screenshots` write it to docs/."""
        size = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        data = picture_of(self.browser)
        self.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        assert 10_000 < len(data) < 150_000  # not blank, and small enough for a repository
        if "screenshots" in config.getoption("--write-docs"):
            (PICTURES / f"{name}.png").write_bytes(data)

    def type(self, selector: str, text: str) -> None:
        """Type, and wait until the page has been redrawn."""
        self.browser.execute_async_script(
            f"const box = document.querySelector('{selector}'); box.value = {json.dumps(text)};"
            "box.dispatchEvent(new Event('input'));"
            "requestAnimationFrame(() => requestAnimationFrame(arguments[arguments.length - 1]))"
        )


def picture_of(browser: Any) -> bytes:
    """Return a screenshot as a small PNG; 64 colours are enough for text."""
    image = pytest.importorskip("PIL.Image")
    shot = image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    small = io.BytesIO()
    shot.quantize(64, dither=image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def record_session(path: Path, use: Callable[[mqttws.Client], None], docs: str | None = None, **options: Any) -> None:
    """Record a session between a client and the broker."""
    saver = saver_for(str(path), False, docs)
    over = threading.Event()

    def add(records: list[Record], settled: bool) -> None:
        saver.add(records, settled)
        if any(record.layer == "tcp" and record.name in ("FIN", "RST") for record in records):
            over.set()

    with Broker() as broker, Tap(broker.url, on_records=add) as tap:
        with mqttws.connect(tap.url, **options) as client:
            use(client)
        assert over.wait(PATIENCE)
    saver.close()


def a_few_messages(client: mqttws.Client) -> None:
    client.subscribe([("a/+", 2), ("other", 0)])
    client.publish("a/\u202e", "x")
    for qos in (0, 1, 2):
        client.publish("a/b", json.dumps({"n": qos}), qos)
    client.publish("other", EVIL)
    for message in islice(client.messages(timeout=PATIENCE), 5):
        assert message.payload


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("session") / "s.html"
    record_session(path, a_few_messages, client_id="c", username="ada", password="secret-canary")
    text = path.read_text()
    assert "secret-canary" not in text
    assert b"secret-canary".hex() not in text
    return path.as_uri()


def test_the_ladder(browser: Any, saved: str) -> None:
    look = Look(browser, saved)
    look.until("document.querySelectorAll('.row').length > 10")
    names = look.run("return [...document.querySelectorAll('.row')].map((row) => row.children[3].innerText)")
    assert names[:6] == ["open", "GET", "101", "CONNECT", "CONNACK", "SUBSCRIBE"]
    assert "a/b" in " ".join(look.rows())
    assert look.complaints() == []


def test_data_of_a_peer_is_shown_as_text(browser: Any, saved: str) -> None:
    look = Look(browser, saved)
    look.until("document.querySelectorAll('.row').length > 10")
    look.type("#filter", "topic:other publish")
    look.choose("PUBLISH")
    text = look.run("return document.querySelector('#detail').innerText")
    assert "<img src=x onerror=alert(1)>" in text
    assert "\u202e" not in look.run("return document.body.innerText")
    assert look.run("return document.querySelectorAll('#detail img, #detail script').length") == 0
    assert look.complaints() == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("connack", {"CONNACK"}),
        ("publish topic:a/#", {"PUBLISH"}),
        ("id:1", {"SUBSCRIBE", "SUBACK", "PUBLISH", "PUBACK"}),
        ("layer:http", {"GET", "101"}),
        ("from:server publish", {"PUBLISH"}),
        ("no such text", set()),
    ],
)
def test_filters(browser: Any, saved: str, words: str, expected: set[str]) -> None:
    look = Look(browser, saved)
    look.until("document.querySelectorAll('.row').length > 10")
    look.type("#filter", words)
    look.until("document.querySelector('#count').innerText.match(/^\\d+ of/)")
    time_out = time.monotonic() + PATIENCE
    while time.monotonic() < time_out:
        names = set(look.run("return [...document.querySelectorAll('.row')].map((row) => row.children[3].innerText)"))
        if names <= expected | {"PUBREC", "PUBREL", "PUBCOMP"} and expected <= names:
            return
    raise AssertionError(names)


def test_bytes_and_fields_highlight_each_other_in_all_layers(browser: Any, saved: str) -> None:
    look = Look(browser, saved)
    look.choose("CONNECT")
    layers = look.run("return [...document.querySelectorAll('.layer > summary')].map((one) => one.innerText)")
    assert [layer.partition(":")[0] for layer in layers[1:]] == ["MQTT packet", "WebSocket frame", "TCP, as read"]
    look.run(
        "[...document.querySelectorAll('tr')].find((row) => row.innerText.startsWith('keep alive'))"
        ".dispatchEvent(new MouseEvent('mouseenter'))"
    )
    hot = look.run("return [...document.querySelectorAll('i.hot')].map((one) => [one.dataset.record, one.innerText])")
    assert [value for _, value in hot[:2]] == ["00", "3c"]
    assert len(hot) == 6  # two bytes in each of three layers
    look.run("document.querySelector('i[data-at=\"0\"]').dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))")
    assert "packet type" in look.run("return document.querySelector('tr.hot').innerText")
    look.run("document.querySelector('i[data-at=\"0\"]').click()")
    why = look.until(
        "document.querySelector('#why').innerText.includes('§') && document.querySelector('#why').innerText"
    )
    assert "tests/" in why
    assert "mqttws.codec" in why


SITE = "https://docs.example/mqttws/"


@pytest.mark.parametrize("docs", [SITE, None])
def test_rules_code_and_tests_are_links_if_there_is_documentation(
    browser: Any, tmp_path: Path, docs: str | None
) -> None:
    path = tmp_path / "s.html"
    record_session(path, a_few_messages, docs=docs)
    look = Look(browser, path.as_uri())
    look.choose("CONNECT")
    look.run("document.querySelector('i[data-at=\"0\"]').click()")
    look.until("document.querySelector('#why').innerText.includes('§2.2.1')")
    links = look.run(
        "return Object.fromEntries([...document.querySelectorAll('#why a')].map((link) => [link.innerText, link.href]))"
    )
    if docs is None:
        assert bool(links) == (published() is not None)
        return
    test = "tests/codec/test_packets.py::test_literals_both_ways"
    writes = "mqttws.codec.connecting:Connect.encode"
    assert links["MQTT-2.2.2-1"] == f"{SITE}conformance/2/index.html#mqtt-222-1"
    assert links[writes] == f"{SITE}source/mqttws/codec/connecting.py.html#Connect.encode"
    assert links[test] == f"{SITE}source/tests/codec/test_packets.py.html#test_literals_both_ways"
    assert look.complaints() == []


def test_a_violated_rule_is_a_link(browser: Any, tmp_path: Path) -> None:
    from pubsub.look.reading import Source

    raw = tmp_path / "raw"
    raw.write_bytes(bytes.fromhex("100f00044d5154540402003c000363" + "2d31" + "30060003612f2b79"))
    path = tmp_path / "s.html"
    saver = saver_for(str(path), False, SITE)
    saver.add(Source(str(raw)).records(), True)
    saver.close()
    look = Look(browser, path.as_uri())
    look.type("#filter", "broken")
    look.choose("PUBLISH")
    found = look.run("const link = document.querySelector('.rule a'); return [link.innerText, link.href]")
    assert found == ["MQTT-3.3.2-2", f"{SITE}conformance/3/index.html#mqtt-332-2"]


def test_the_states_follow_the_cursor(browser: Any, saved: str) -> None:
    look = Look(browser, saved)
    look.choose("CONNECT")
    assert "client: connecting" in look.run("return document.querySelector('#states').textContent")
    look.type("#filter", "pubrec")
    look.choose("PUBREC")
    text = look.run("return document.querySelector('#states').textContent")
    assert "client: connected" in text
    assert "sends" in text
    assert look.run("return document.querySelectorAll('#states .now').length") >= 3


def test_keys(browser: Any, saved: str) -> None:
    look = Look(browser, saved)
    look.until("document.querySelectorAll('.row').length > 10")

    def press(key: str) -> None:
        look.run(
            f"document.body.dispatchEvent(new KeyboardEvent('keydown', {{key: {json.dumps(key)}, bubbles: true}}))"
        )

    for key, name in KEYS:
        press(key)
        chosen = "document.querySelector('.row.selected')?.children[3].innerText"
        look.until(f"{chosen}?.endsWith('{name}')")
    press("/")
    assert look.run("return document.activeElement.id") == "filter"


def test_dark_and_light(browser: Any, saved: str) -> None:
    look = Look(browser, saved)
    paper = "getComputedStyle(document.body).backgroundColor"
    first = look.run(f"return {paper}")
    look.run("document.getElementById('theme').click()")
    second = look.run(f"return {paper}")
    assert first != second
    look.run("document.getElementById('theme').click()")
    assert look.run(f"return {paper}") == first


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pictures(browser: Any, saved: str, theme: str, pytestconfig: pytest.Config) -> None:
    look = Look(browser, saved)
    look.run(f"document.documentElement.dataset.theme = '{theme}'")
    look.choose("CONNECT")
    look.run(
        "[...document.querySelectorAll('tr')].find((row) => row.innerText.startsWith('keep alive'))"
        ".dispatchEvent(new MouseEvent('mouseenter'))"
    )
    look.run("document.querySelector('i.hot').click()")
    look.until("document.querySelector('#why').innerText.includes('§3.1.2.10')")
    look.picture(f"look-{theme}", pytestconfig)


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(browser: Any, saved: str, width: int) -> None:
    browser.set_window_size(max(width, 500), 800)
    look = Look(browser, saved)
    look.choose("CONNECT")
    assert look.run("return document.documentElement.scrollWidth <= innerWidth")
    browser.set_window_size(1280, 800)


def test_the_page_draws_only_the_records_in_the_window(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "many.html"

    def publish(client: mqttws.Client) -> None:
        for number in range(1000):
            client.publish_nowait(f"a/{number % 50}", b"x" * 20, number % 3)
        client.flush(PATIENCE)

    record_session(path, publish)
    look = Look(browser, path.as_uri())
    look.until("document.querySelectorAll('.row').length > 10")
    elements = "return document.querySelectorAll('*').length"
    few = look.run(elements)
    assert look.run("return given.records.length") > 1000
    # 100,000 records: the same ones, renumbered.
    look.run(
        "const many = []; for (let i = 0; many.length < 100000; i++) for (const one of given.records)"
        "  many.push({...one, number: one.number + (i + 1) * 1e6, parts: undefined, answers: undefined});"
        "add(many)"
    )
    look.until("document.querySelector('#count').innerText.match(/of 1\\d{5}/)")
    last = "records.filter(wanted).at(-1).number"
    look.run("document.getElementById('list').scrollTop = 1e9")
    look.until(f"[...document.querySelectorAll('.row')].at(-1).dataset.number === String({last})")
    assert look.run("return document.querySelectorAll('.row').length") < 100
    assert look.run(elements) < few + 1000


# Live.


class Live:
    """A tap and its page, in a thread."""

    def __init__(self, url: str) -> None:
        self.tap = Tap(url, on_records=self._add)
        self._page: Page | None = None
        self.url = ""
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def _add(self, records: list[Record], settled: bool) -> None:
        if self._page is not None:
            self._page.note_change()

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with self.tap:
            self._page = Page(self.tap.records.since, self.tap.records.get, inject=self.tap.inject)
            self.url = await self._page.start()
            self._ready.set()
            await self._end.wait()
            await self._page.stop()

    def __enter__(self) -> Live:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._end is not None
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE)


def test_a_live_session(browser: Any) -> None:
    with Broker() as broker, Live(broker.url) as live:
        look = Look(browser, live.url)
        with mqttws.connect(live.tap.url, client_id="c", username="u", password="canary-1") as client:
            client.subscribe("a/#", 1)
            look.until("[...document.querySelectorAll('.row')].some((row) => row.innerText.includes('SUBACK'))")
            client.publish("a/b", b"x", 0)
            look.type("#filter", "from:client publish")
            look.choose("PUBLISH")
            # Change a byte of the topic, check that it is decoded again, and send it to the broker.
            look.until("document.querySelector('#edit')?.value")
            look.type("#edit", "30 06 00 03 61 2f 63 79")
            look.until("document.querySelector('#decoded').innerText.includes('a/c')")
            look.type("#edit", "30 06 00 03 61 2f 2b 79")
            look.until("document.querySelector('#decoded').innerText.includes('MQTT-3.3.2-2')")
            look.type("#edit", "30060003612f6379")
            look.until("document.querySelector('#decoded').innerText.includes('a/c')")
            look.run("document.querySelector('#send').click()")
            topics = [message.topic for message in islice(client.messages(timeout=PATIENCE), 2)]
            assert topics == ["a/b", "a/c"]
            # Secrets are hidden until requested.
            look.type("#filter", "connect")
            look.choose("CONNECT")
            assert "63616e6172792d31" not in look.run("return document.querySelector('#detail').innerText").replace(
                " ", ""
            )
            look.run("document.getElementById('secrets').click()")
            look.until("document.querySelector('#detail').innerText.replace(/[\\s]/g, '').includes('63616e6172792d31')")
        look.until("document.querySelector('#count')")
        assert look.complaints() == []


def test_5000_packets_live(browser: Any) -> None:
    with Broker() as broker, Live(broker.url) as live:
        look = Look(browser, live.url)
        with mqttws.connect(live.tap.url) as client:
            for number in range(5000):
                client.publish_nowait("a", str(number))
            client.publish("end", qos=1)
            look.until("[...document.querySelectorAll('.row')].some((row) => row.innerText.includes('PUBACK'))")
        assert look.run("return records.filter((one) => one.name === 'PUBLISH').length") == 5001


def test_the_signed_url_explains_itself(browser: Any) -> None:
    """Without secrets nothing of it is shown; with them the page repeats the computation of the signer."""
    keys = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "token/with+signs==")
    with Broker() as broker, Live(broker.url) as live:
        look = Look(browser, live.url)
        host = live.tap.url.removeprefix("ws://").removesuffix("/mqtt")
        signed = str(presign_iot_url(f"ws://{host}/mqtt", keys, "eu-west-1"))
        with mqttws.connect(signed):
            look.choose("GET")
            assert "hidden" in look.until("document.querySelector('#signed')?.innerText")
            look.run("document.getElementById('secrets').click()")
            look.until("document.querySelector('#tosign')")
            look.type("#signed input", keys.secret_key)
            look.until("document.querySelector('#steps')?.innerText.includes('they are equal')")


def test_access_to_the_page_is_restricted() -> None:
    def ask(url: str, body: bytes = b"{}", **headers: str) -> tuple[int, str | None]:
        class Stay(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_: Any) -> None:
                return None

        request = urllib.request.Request(url, headers=headers, data=body if "Origin" in headers else None)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({}), Stay).open(request, timeout=10) as answer:
                return answer.status, answer.headers["Set-Cookie"]
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Set-Cookie"]

    with Broker() as broker, Live(broker.url) as live:
        base = live.url.partition("?")[0]
        host = urlsplit(base).netloc
        assert ask(base)[0] == 403
        assert ask(f"{base}?token=wrong")[0] == 403
        assert ask(f"{base}?token=%C3%A9")[0] == 403
        assert ask(base, Cookie='look="\xe9"')[0] == 403
        assert ask(live.url, Host="evil.example")[0] == 421
        status, cookie = ask(live.url)
        assert status == 303
        assert cookie is not None
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert cookie.endswith(f"; Path={urlsplit(base).path}")  # which no other server of this machine knows
        pair = cookie.partition(";")[0]
        assert ask(f"http://{host}/", Cookie=pair)[0] == 403
        assert ask(base, Cookie=f'theme={{"dark": 1}}; flag; {pair}; a[b]=c d')[0] == 200  # cookies of other programs
        assert ask(live.url)[0] == 403  # once
        assert ask(base, Cookie=pair)[0] == 200
        assert ask(f"{base}decode", Cookie=pair, Origin="http://evil.example")[0] == 403
        assert ask(f"{base}decode", Cookie=pair, Origin=f"http://{host}")[0] == 400
        assert ask(f"{base}decode", Cookie=pair, Origin="http://[")[0] == 400
        assert ask(f"{base}record?n={'9' * 5000}", Cookie=pair)[0] == 400  # more digits than Python converts
        endless = b'{"connection": Infinity, "sender": "client", "layer": "mqtt", "data": ""}'
        assert ask(f"{base}send", endless, Cookie=pair, Origin=f"http://{host}")[0] == 400
        with Live(broker.url) as other:  # a second page has a path of its own, and so a cookie
            assert urlsplit(other.url).path != urlsplit(base).path
        assert ask(f"{base}decode", Cookie="look=wrong", Origin=f"http://{host}")[0] == 403


def test_the_page_of_a_file(browser: Any, tmp_path: Path) -> None:
    """`pubsub look FILE --web`: the records of a saved session, decoded and explained."""
    from pubsub.look.reading import Source

    path = tmp_path / "s.jsonl"
    record_session(path, a_few_messages)
    records = list(Source(str(path)).records())
    urls: list[str] = []
    known = threading.Event()
    ending: list[Callable[[], object]] = []

    async def serve() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        ending.append(lambda: loop.call_soon_threadsafe(task.cancel))
        await show_page(records, lambda url: (urls.append(url), known.set()))

    def run() -> None:
        try:
            asyncio.run(serve())
        except asyncio.CancelledError:
            pass

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert known.wait(PATIENCE)
        look = Look(browser, urls[0])
        look.choose("SUBSCRIBE")
        look.type("#edit", "ff00")
        look.until("document.querySelector('#decoded').innerText.includes('§2.2.1')")
        assert look.run("return document.querySelector('#send')") is None
    finally:
        ending[0]()
        thread.join(PATIENCE)


def test_the_command_takes_the_address_of_the_documentation(browser: Any) -> None:
    with Broker() as broker:
        command = [sys.executable, "-m", "pubsub", "look", broker.url, "--web", "--docs", SITE]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as looking:
            assert looking.stderr is not None
            try:
                look = Look(browser, looking.stderr.readline().split()[1].rstrip(";"))
                assert look.until("given.links.code").startswith(SITE)
            finally:
                looking.terminate()
                looking.communicate(timeout=PATIENCE)


def test_the_page_of_the_broker(browser: Any, pytestconfig: pytest.Config) -> None:
    """`pubsub serve --look`: traffic of both listeners, the broker's state, and a message published by the page."""
    command = [sys.executable, "-m", "pubsub", "serve", "--look", "--docs", SITE, "--ws-port", "0", "--tcp-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        assert serving.stderr is not None
        try:
            urls = [serving.stdout.readline().strip() for _ in range(2)]
            assert [url.partition(":")[0] for url in urls] == ["ws", "mqtt"]
            look = Look(browser, serving.stderr.readline().split()[1])
            with mqttws.connect(urls[0], client_id="by-ws") as one, mqttws.connect(urls[1], client_id="by-tcp") as two:
                one.subscribe("rooms/+/lamp", 1)
                two.publish("rooms/1/lamp", "on", 1, retain=True)
                assert next(one.messages(timeout=PATIENCE)).payload == b"on"
                look.until("connections.size === 2")
                assert look.run("return given.links.code").startswith(SITE)
                look.run("document.getElementById('tab-broker').click()")
                text = look.until(
                    "document.querySelector('#broker .cards') && document.querySelector('#broker').innerText"
                )
                for expected in ("by-ws", "by-tcp", "lamp", "rooms/1/lamp", "clients"):
                    assert expected in text
                look.run("document.querySelector('#pub-topic').value = 'rooms/2/lamp'")
                look.run("document.querySelector('#pub-payload').value = 'off'")
                look.run("document.querySelector('#pub-send').click()")
                messages = one.messages(timeout=PATIENCE)
                assert next(message for message in messages if message.topic == "rooms/2/lamp").payload == b"off"
                look.until("document.querySelector('#broker [role=status]').innerText.endsWith('to 1 subscriber')")
                look.picture("look-broker", pytestconfig)
            assert look.complaints() == []
        finally:
            serving.terminate()
            assert serving.wait(PATIENCE) == 0


def test_a_session_of_the_store_has_no_address(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    for connects in (True, False):
        with closing(mqttws.SQLiteStore(path)) as store, Broker(store=store) as broker:
            if connects:
                with mqttws.connect(broker.url, client_id="kept", clean_session=False):
                    assert _state(broker)["sessions"][0]["address"].startswith("127.0.0.1:")
            else:
                assert [each["address"] for each in _state(broker)["sessions"]] == [""]
