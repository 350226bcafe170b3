"""`--aws`: a connection to AWS IoT, each attempt of which is signed afresh."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

from pubsub.cli import USAGE, Failure


def add_aws_link_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a signed connection."""
    aws = parser.add_argument_group("AWS IoT", "the URL, or -h, names the endpoint")
    aws.add_argument("--aws", action="store_true", help="sign each connection for AWS IoT")
    aws.add_argument("--region", metavar="REGION", help="(default: that of the endpoint's name)")
    aws.add_argument("--profile", metavar="NAME",
                     help="of ~/.aws (default: the environment, then the default profile)")  # fmt: skip
    aws.add_argument("--cognito", metavar="FILE",
                     help="aws-exports.js or amplify_outputs.json: a guest of its identity pool")  # fmt: skip


def aws_provider(arguments: argparse.Namespace, options: dict[str, Any]) -> Any:
    """Make the provider that signs.

    Args:
        arguments: of the command.
        options: of the client.

    Raises:
        Failure: the options do not fit together, or a file cannot be read.
    """
    from pubsub.errors import ProviderError
    from pubsub.providers.aws_iot import AWSIoTProvider

    if arguments.profile and arguments.cognito:
        raise Failure("--profile and --cognito both name credentials; leave one out", USAGE)
    if options.get("username") is not None:
        raise Failure("--aws proves who the client is by a signature; leave the user name out", USAGE)
    settings: dict[str, Any] = {}
    try:
        if arguments.cognito:
            from pubsub.aws.settings import read_settings

            settings = read_settings(arguments.cognito)
        provider = AWSIoTProvider(
            arguments.region, _endpoint(arguments.url), _credentials(arguments.profile), **options
        )
        provider.configure(settings)
        provider.client_options()
    except (ValueError, OSError, ProviderError) as error:
        raise Failure(str(error), USAGE) from None
    return provider


def _endpoint(url: str) -> str:
    """Return the endpoint: what -h names is a host of AWS, reached by a WebSocket with TLS."""
    scheme, _, rest = url.partition("://")
    if scheme in ("mqtt", "mqtts"):
        return f"wss://{rest.partition(':')[0]}/mqtt"
    return url


def _credentials(profile: str | None) -> Any:
    """Return the source of credentials of a profile; None: the provider's own chain."""
    if profile is None:
        return None
    try:
        import_module("botocore")  # its chain knows more kinds of profiles
    except ModuleNotFoundError:
        from sigv4 import SharedFileProvider

        return SharedFileProvider(profile)
    from sigv4 import BotocoreProvider

    return BotocoreProvider(profile)


def check_without_aws(arguments: argparse.Namespace) -> None:
    """Refuse options that have no effect without `--aws`.

    Raises:
        Failure: there is one.
    """
    for name in ("region", "profile", "cognito"):
        if getattr(arguments, name, None) is not None:
            raise Failure(f"--{name} is for --aws", USAGE)
