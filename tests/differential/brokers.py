"""Run the same conversations with our broker and with others; each difference is shrunk, named and counted."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from conversation import PATIENCE, Generator, Run, Seen, Step, systematic
from foreign_brokers import Running, aedes, amqtt, embedded, free_ports, mosquitto, rabbitmq, run, wait_for

from mqttws.testing import mint_authority

#: Seconds that a broker may take for what comes later than its PINGRESP; and when a difference is examined again.
SLOW = 0.4
GRACE = {"ours": 0.01, "mosquitto": 0.01, "aedes": 0.02, "amqtt": 0.05, "rabbitmq": 0.1, "nats-server": 0.05}


@contextmanager
def nats(folder: Path, pem: Path, ca: Path) -> Iterator[Running]:
    """Run nats-server, with its MQTT listener."""
    from agents import PEERS_PYTHON, need

    program = PEERS_PYTHON.parent / "nats-server"
    need(program.exists(), "nats-server")
    port, other = free_ports(2)
    configuration = folder / "nats.conf"
    configuration.write_text(
        f'listen: "127.0.0.1:{other}"\nserver_name: differential\njetstream {{ store_dir: "{folder}/js" }}\n'
        f'mqtt {{ listen: "127.0.0.1:{port}" }}\n'
    )
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    log = folder / "nats.log"
    with run([str(program), "-c", str(configuration)], log) as process:
        wait_for([port], process, log)
        yield Running(version, {"mqtt": f"mqtt://127.0.0.1:{port}"}, ca)


BROKERS: dict[str, Callable[[Path, Path, Path], AbstractContextManager[Running]]] = {
    "mosquitto": mosquitto,
    "aedes": aedes,
    "amqtt": amqtt,
    "rabbitmq": rabbitmq,
    "nats-server": nats,
}


@dataclass
class Difference:
    """A kind of difference.

    Attributes:
        statement: the statement of the last step.
        step: a description of that step.
        ours: the observations of clients of our broker.
        theirs: the observations of clients of the other broker.
        count: the number of conversations with it.
        replay: a shortest conversation that shows it.
        acknowledges: whether the clients acknowledge received messages in it.
    """

    statement: str
    step: str
    ours: str
    theirs: str
    count: int = 1
    replay: list[Step] = field(default_factory=list)
    acknowledges: bool = True

    @property
    def key(self) -> str:
        """Return the key that identifies this kind of difference."""
        return f"{self.step} | {self.ours} | {self.theirs}"


def compare(steps: list[Step], ours: list[Seen], theirs: list[Seen]) -> tuple[int, Difference] | None:
    """Return the first step after which the two differ."""
    for number, (step, our, their) in enumerate(zip(steps, ours, theirs, strict=True)):
        if not step.legal and our.get(step.client) != their.get(step.client):
            our, their = ({step.client: seen.get(step.client, ())} for seen in (our, their))  # the rest follows from it
        if our != their:
            return number, Difference(step.statement, step.what, *_named(step, our, their))
    return None


def _named(step: Step, ours: Seen, theirs: Seen) -> tuple[str, str]:
    """Describe what only one of the two has sent, by whether it was sent to the client of the step."""
    named = []
    for one, other in ((ours, theirs), (theirs, ours)):
        found: Counter[str] = Counter()
        for name, packets in one.items():
            receiver = "" if name == step.client else "to another: "
            left = Counter(packets) - Counter(other.get(name, ()))
            found.update(f"{receiver}{_short(packet)}" for packet in left.elements())
        named.append("; ".join(f"{text}{f' x{count}' if count > 1 else ''}" for text, count in sorted(found.items())))
    return named[0] or "nothing", named[1] or "nothing"


def _short(packet: str) -> str:
    """Return a packet without the parts that do not distinguish kinds of differences."""
    name, _, rest = packet.partition("(")
    fields = dict(each.split("=", 1) for each in rest.rstrip(")").split(", ") if "=" in each)
    if name == "Publish":
        flags = [f"QoS {fields['qos']}", *(f for f in ("retain", "dup") if fields[f] == "True")]
        return f"PUBLISH ({', '.join(flags)})"
    if name == "ConnAck":
        return f"CONNACK {fields['return_code']}, session present {int(fields['session_present'] == 'True')}"
    if name == "SubAck":
        return "SUBACK " + rest.partition("return_codes=")[2].rstrip(")").strip("(,")
    return name.upper() if rest else packet.partition(":")[0]


class Duel:
    """Our broker and another one, side by side.

    Args:
        ours: the address of our broker.
        theirs: the address of the other broker.
        grace: see `GRACE`.
    """

    def __init__(self, ours: tuple[str, int], theirs: tuple[str, int], grace: float) -> None:
        self._ours = ours
        self._theirs = theirs
        self._grace = grace
        self.found: dict[str, Difference] = {}
        self.conversations = self.steps = self.kinds = 0

    def play(self, steps: list[Step], acknowledges: bool, grace: float = SLOW) -> tuple[list[Seen], list[Seen]]:
        """Run a conversation with both brokers. Return what the clients received from ours, and from the other."""
        patience = PATIENCE if grace < SLOW else 5 * PATIENCE
        ours = Run(self._ours, min(grace, GRACE["ours"]), acknowledges, patience).play(steps)
        theirs = Run(self._theirs, grace, acknowledges, patience).play(steps)
        self.conversations += 1
        self.steps += len(steps)
        return ours, theirs

    def _differ(self, steps: list[Step], acknowledges: bool, grace: float = SLOW) -> tuple[int, Difference] | None:
        return compare(steps, *self.play(steps, acknowledges, grace))

    def try_out(self, steps: list[Step], acknowledges: bool) -> None:
        """Run a conversation with both brokers; record a difference, shrunk if it is new."""
        found = self._differ(steps, acknowledges, self._grace)
        if found is None:
            return
        number, difference = found
        known = self.found.get(difference.key)
        if known is not None:
            known.count += 1
            return
        again = self._differ(steps, acknowledges)  # with longer timeouts, since lateness is no difference
        if again is None:
            return
        number, difference = again
        if difference.key in self.found:
            self.found[difference.key].count += 1
            return
        difference.replay = steps[: number + 1]
        difference.acknowledges = acknowledges
        self.found[difference.key] = self._shrink(difference, acknowledges)

    def _shrink(self, difference: Difference, acknowledges: bool) -> Difference:
        smaller = True
        while smaller:
            smaller = False
            for place in range(len(difference.replay) - 1):
                fewer = difference.replay[:place] + difference.replay[place + 1 :]
                found = self._differ(fewer, acknowledges)
                if found is not None and found[0] == len(fewer) - 1 and found[1].key == difference.key:
                    difference.replay, smaller = fewer, True
                    break
        return difference


def address(running: Running) -> tuple[str, int]:
    """Return the address of a broker's plain TCP listener."""
    parts = urlsplit(running.urls["mqtt"])
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@contextmanager
def side_by_side(name: str) -> Iterator[tuple[Duel, str]]:
    """Run our broker and another one. Yield both, and the version of the other."""
    folder = Path(tempfile.mkdtemp())
    try:
        identity = mint_authority().issue("127.0.0.1", "localhost")  # their TLS listeners need one
        pem = folder / "both.pem"
        pem.write_bytes(identity.key + identity.certificate)
        (folder / "theirs").mkdir()
        with embedded(folder, pem, pem) as ours, BROKERS[name](folder / "theirs", pem, pem) as theirs:
            yield Duel(address(ours), address(theirs), GRACE[name]), theirs.version
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def duel(name: str, seconds: float, first_seed: int) -> tuple[Duel, str]:
    """Run conversations with our broker and another one, for some seconds."""
    with side_by_side(name) as (found, version):
        seen: Counter[tuple[str, ...]] = Counter()
        generator = Generator(seen)
        for steps in systematic():
            found.try_out(steps, acknowledges=True)
        deadline, seed = time.monotonic() + seconds, first_seed
        while time.monotonic() < deadline:
            found.try_out(generator.conversation(seed), acknowledges=seed % 3 > 0)
            seed += 1
        found.kinds = len(seen)
    return found, version


def as_json(duels: dict[str, Duel]) -> str:
    """Return the replays of all differences, by broker, in the order of their numbers."""
    replays = {
        name: [
            {"acknowledges": each.acknowledges, "steps": [vars(step) for step in each.replay]}
            for each in found.found.values()
        ]
        for name, found in duels.items()
    }
    return json.dumps(replays, indent=1, ensure_ascii=False) + "\n"
