"""The option `--aws`: a connection to AWS IoT with a new signature at each attempt."""

from __future__ import annotations

from collections.abc import Callable

import mqttws
from pubsub.cli import USAGE, Failure

TYPE_CHECKING = False  # importing `typing` for it would delay the first message
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from mqttws.tap import Record


def aws_provider(arguments: argparse.Namespace, options: dict[str, Any]) -> Any:
    """Return the provider that signs.

    Args:
        arguments: The arguments of the command.
        options: The options of the client.

    Raises:
        Failure: The options contradict each other, or a file cannot be read.
    """
    from pubsub.errors import ProviderError
    from pubsub.providers.aws_iot import AWSIoTProvider

    if arguments.profile and arguments.cognito:
        raise Failure("--profile and --cognito both select credentials; omit one of them", USAGE)
    if options.get("username") is not None:
        raise Failure("--aws authenticates the client by a signature; omit the user name", USAGE)
    settings: dict[str, Any] = {}
    try:
        if arguments.cognito:
            from pubsub.aws.settings import read_settings

            settings = read_settings(arguments.cognito)
        provider = AWSIoTProvider(arguments.region, _endpoint(arguments.url), _credentials(arguments), **options)
        provider.configure(settings)
        provider.client_options()
    except (ValueError, OSError, ProviderError) as error:
        raise Failure(str(error), USAGE) from None
    return provider


def signed_taps(url: str, arguments: argparse.Namespace) -> tuple[dict[str, Any], Callable[[Record], str | None]]:
    """Return the options of a tap that signs the connections of its clients for AWS IoT.

    Args:
        url: The endpoint.
        arguments: The arguments of the command.

    Returns:
        The options of `Tap`; and a function that returns the reason if a record is a refusal by AWS IoT.

    Raises:
        Failure: As in `aws_provider`.
    """
    arguments.url = url
    provider = aws_provider(arguments, {})

    async def fresh_url() -> str:
        import inspect

        made = provider.url_async()
        urls = await made if inspect.isawaitable(made) else made
        return str(urls if isinstance(urls, str) else urls[0])

    def explain(record: Record) -> str | None:
        if record.layer != "http" or record.sender != "server" or record.name != "403":
            return None
        lines = record.data.decode("latin-1").split("\r\n")[1:]
        pairs = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        error = mqttws.HandshakeRejected(403, [pair for pair in pairs if pair[0]])
        reason = str(provider.explain(error))
        provider.recover(error)  # corrects a wrong clock for the next connection
        return reason

    return {"fresh_url": fresh_url}, explain


def _endpoint(url: str) -> str:
    """Return the endpoint. With -h and -p it is a place of AWS, to connect to by WebSocket with TLS."""
    scheme, _, place = url.partition("://")
    if scheme.lower() in ("mqtt", "mqtts"):
        return f"wss://{place.removesuffix('/')}/mqtt"
    return url


def _credentials(arguments: argparse.Namespace) -> Any:
    """Return the source of credentials: a profile or the usual chain; None for the configured identity pool."""
    if arguments.cognito:
        return None
    try:
        __import__("botocore")  # its chain supports more kinds of sources and profiles
    except ModuleNotFoundError:
        from sigv4 import ChainProvider, SharedFileProvider

        return SharedFileProvider(arguments.profile) if arguments.profile else ChainProvider()
    from sigv4 import BotocoreProvider, ChainProvider, EnvironmentProvider

    botocore = BotocoreProvider(arguments.profile)
    return botocore if arguments.profile else ChainProvider(EnvironmentProvider(), botocore)
