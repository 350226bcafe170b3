"""The options of `pubsub serve --aws-iot`: the local AWS IoT endpoint in place of the plain broker."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pubsub.cli import USAGE, Failure
from pubsub.cli.options import port

if TYPE_CHECKING:
    from pubsub.aws.local.endpoint import LocalIoTEndpoint


def add_aws_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    aws = parser.add_argument_group("AWS IoT", "a local endpoint that verifies signatures, policies and limits")
    aws.add_argument("--aws-iot", action="store_true", help="run it instead of the plain broker, at --ws-port")
    aws.add_argument("--identities", metavar="FILE",
                     help="TOML or JSON: users, pools, things, policies (default: one user, new keys)")  # fmt: skip
    aws.add_argument("--cognito-port", type=port, metavar="PORT", help="port of Cognito (default: any free port)")
    aws.add_argument("--explain", action="store_true", help="include the client's mistake in a refusal")


def aws_endpoint(arguments: argparse.Namespace) -> LocalIoTEndpoint:
    """Return the endpoint for the options; it is not started.

    Raises:
        Failure: The options cannot be used.
    """
    from pubsub.aws.local.endpoint import LocalIoTEndpoint
    from pubsub.aws.local.identities import Identities

    try:
        identities = Identities.load(arguments.identities) if arguments.identities else None
        if arguments.cognito_port is not None and not (identities and identities.pools):
            raise ValueError("--cognito-port needs --identities with an identity pool")
        endpoint = LocalIoTEndpoint(
            identities,
            host=arguments.host,
            port=8083 if arguments.ws_port is None else arguments.ws_port,
            mqtts_port=arguments.mqtts_port,
            cognito_port=arguments.cognito_port or 0,
            tls=arguments.tls_dev,
            names=arguments.name,
            explain=arguments.explain,
            allowed_origins=arguments.allow_origin,
        )
        if arguments.ca_out:
            endpoint.write_authority(Path(arguments.ca_out))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        raise Failure(str(error), USAGE) from None
    return endpoint


def aws_lines(endpoint: LocalIoTEndpoint) -> list[str]:
    """Return the lines for standard output when the endpoint listens: its URLs."""
    lines = list(endpoint.broker.urls)
    if endpoint.identities.pools:
        lines.append(endpoint.cognito_endpoint)
    return lines


def aws_notes(endpoint: LocalIoTEndpoint) -> list[str]:
    """Return the lines for standard error: how to connect. They include the keys that were created for this run."""
    notes = [f"region {endpoint.region}, account {endpoint.identities.account_id}"]
    if endpoint.has_own_user:
        keys = endpoint.credentials
        notes += [
            "one user with all permissions, and new keys:",
            f"export AWS_ACCESS_KEY_ID={keys.access_key} AWS_SECRET_ACCESS_KEY={keys.secret_key}",
        ]
    return notes
