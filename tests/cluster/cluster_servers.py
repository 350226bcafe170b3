"""The servers whose behaviour is tested, each as a context manager."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from cluster_nats import NATS
from cluster_rabbitmq import RabbitMQ
from foreign_brokers import BROKERS, Running

from mqttws.broker import Broker, Limits
from mqttws.testing import mint_authority
from pubsub import AWSIoTProvider
from pubsub.aws.local.endpoint import LocalIoTEndpoint

#: Version, URL, and the URL of another node, if there is one.
Server = tuple[str, Any, Any]


@contextmanager
def embedded() -> Iterator[Server]:
    """Run our broker, the reference."""
    with Broker(sys_interval=None, limits=Limits(max_packet_size=4 * 1024 * 1024)) as broker:
        yield "", broker.url, None


@contextmanager
def nats() -> Iterator[Server]:
    """Run NATS, with three nodes."""
    with NATS() as cluster:
        cluster.settle()
        yield cluster.product.split()[-1], cluster.urls[0], cluster.urls[1]


@contextmanager
def rabbitmq() -> Iterator[Server]:
    """Run RabbitMQ, with three nodes."""
    with RabbitMQ(mirrored=True) as cluster:
        cluster.settle()
        yield cluster.product.split()[-1], cluster.urls[0], cluster.urls[1]


@contextmanager
def mosquitto() -> Iterator[Server]:
    """Run Mosquitto."""
    identity = mint_authority().issue("127.0.0.1", "localhost")  # its TLS listeners need one
    with tempfile.TemporaryDirectory(prefix="server-") as made:
        folder = Path(made)
        pem = folder / "both.pem"
        pem.write_bytes(identity.key + identity.certificate)
        manager: Any = BROKERS["mosquitto"](folder, pem, pem)
        with manager as running:
            assert isinstance(running, Running)
            yield running.version, running.urls["mqtt"], None


@contextmanager
def aws_stand_in() -> Iterator[Server]:
    """Run the local endpoint, which behaves as AWS documents; AWS itself is not used."""
    with LocalIoTEndpoint() as iot:
        provider = AWSIoTProvider(iot.region, iot.url, iot.credentials)
        yield "local stand-in", provider.url, None


SERVERS: dict[str, Callable[[], AbstractContextManager[Server]]] = {
    "plain": embedded,
    "mosquitto": mosquitto,
    "nats": nats,
    "rabbitmq": rabbitmq,
    "aws-iot": aws_stand_in,
}
