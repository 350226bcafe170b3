"""`pubsub aws attach-policy` and `pubsub aws whoami`: prepare a Cognito identity for AWS IoT, and show credentials.

`attach-policy` corresponds to `aws iot attach-policy` of the AWS command line. The request is signed with the
credentials that botocore finds; botocore is an extra: pip install 'mqttws-pubsub[botocore]'.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import Any

from pubsub.aws.cognito import CognitoError, CognitoIdentity
from pubsub.aws.settings import SettingsError, read_settings
from pubsub.cli import FAILED, NO_CONNECTION, OK, REFUSED, USAGE, Failure
from pubsub.cli.options import credentials_failure
from pubsub.cli.streams import show
from sigv4 import BotocoreProvider, CredentialsUnavailable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aws`."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    says = "attach an AWS IoT policy to a Cognito identity"
    attach = verbs.add_parser("attach-policy", help=says, description=says)
    attach.add_argument("--policy-name", required=True, metavar="NAME", help="name of the AWS IoT policy")
    attach.add_argument("--endpoint-url", metavar="URL", help="URL of AWS IoT's control plane (default: AWS's)")
    attach.add_argument("--profile", metavar="NAME", help="profile of the AWS configuration for the signature")
    attach.add_argument("--region", metavar="REGION", help="the AWS region (default: the pool's, or that of --config)")
    says = "print the identity and the source of its credentials"
    whoami = verbs.add_parser("whoami", help=says, description=says)
    whoami.add_argument(
        "--profile", metavar="NAME", help="profile of the AWS configuration, if there is no identity pool"
    )
    for verb in (attach, whoami):
        verb.add_argument("--identity-id", metavar="ID", help="the Cognito identity (default: a guest of the pool)")
        verb.add_argument("--config", metavar="FILE",
                          help="aws-exports.js, amplifyconfiguration.json or amplify_outputs.json")  # fmt: skip
        verb.add_argument("--identity-pool-id", metavar="ID", help="the identity pool (default: that of --config)")
        verb.add_argument("--cognito-endpoint-url", metavar="URL", help="URL of the Cognito service (default: AWS's)")


def run(arguments: argparse.Namespace) -> int:
    """Run one verb of `aws`."""
    settings = _settings(arguments)
    try:
        return (
            _attach_policy(arguments, settings) if arguments.verb == "attach-policy" else _whoami(arguments, settings)
        )
    except CognitoError as error:
        raise credentials_failure(error) from None
    except CredentialsUnavailable as error:
        raise Failure(str(error), FAILED) from None


def _settings(arguments: argparse.Namespace) -> dict[str, str]:
    settings: dict[str, str] = {}
    if arguments.config is not None:
        try:
            settings = read_settings(arguments.config)
        except SettingsError as error:
            raise Failure(str(error), USAGE) from None
        except OSError as error:
            raise Failure(f"{arguments.config} cannot be read: {error.strerror}", USAGE) from None
    if arguments.identity_pool_id is not None:
        settings["aws_cognito_identity_pool_id"] = arguments.identity_pool_id
    return settings


def _identity(arguments: argparse.Namespace, settings: dict[str, str]) -> CognitoIdentity:
    pool = settings.get("aws_cognito_identity_pool_id")
    if pool is None:
        raise Failure("the identity is missing: use --identity-id, --identity-pool-id or --config", USAGE)
    try:
        return CognitoIdentity(pool, endpoint=arguments.cognito_endpoint_url, identity_id=arguments.identity_id)
    except ValueError as error:
        raise Failure(str(error), USAGE) from None


def _attach_policy(arguments: argparse.Namespace, settings: dict[str, str]) -> int:
    target = arguments.identity_id
    if target is None:
        identity = _identity(arguments, settings)
        identity.get_frozen_credentials()
        target = identity.identity_id
    named = (settings.get(name) for name in ("aws_pubsub_region", "aws_project_region", "aws_cognito_identity_pool_id"))
    region = arguments.region or next(filter(None, named), str(target)).partition(":")[0]
    faults, client = _iot_client(region, arguments.endpoint_url, arguments.profile)
    try:
        client.attach_policy(policyName=arguments.policy_name, target=target)
    except faults.ClientError as error:
        reason = error.response.get("Error", {})
        raise Failure(f"AWS IoT refused: {reason.get('Code')}: {reason.get('Message')}", REFUSED) from None
    except (faults.ConnectionError, faults.HTTPClientError) as error:
        raise Failure(str(error), NO_CONNECTION) from None
    except faults.BotoCoreError as error:
        raise Failure(str(error), FAILED) from None
    finally:
        client.close()
    show(f"attached {arguments.policy_name} to {target}")
    return OK


def _iot_client(region: str, endpoint_url: str | None, profile: str | None) -> tuple[Any, Any]:
    """Return botocore's module of exceptions, and its client of AWS IoT's control plane."""
    try:
        sessions, faults = import_module("botocore.session"), import_module("botocore.exceptions")
    except ImportError:
        raise Failure("this needs botocore: pip install 'mqttws-pubsub[botocore]'", FAILED) from None
    try:
        session = sessions.Session(profile=profile)
        return faults, session.create_client("iot", region_name=region, endpoint_url=endpoint_url)
    except (faults.BotoCoreError, ValueError) as error:
        raise Failure(str(error), USAGE) from None


def _whoami(arguments: argparse.Namespace, settings: dict[str, str]) -> int:
    """Print the owner of the credentials, without anything secret."""
    if sys.stdout is None:
        raise Failure("there is no standard output to write to", FAILED)
    if "aws_cognito_identity_pool_id" in settings:
        identity = _identity(arguments, settings)
        credentials = identity.get_frozen_credentials()
        _line("identity", identity.identity_id or "")
        _line("credentials", f"of the Cognito identity pool {settings['aws_cognito_identity_pool_id']}, as a guest")
    elif arguments.identity_id is not None or arguments.cognito_endpoint_url is not None:
        raise Failure("an identity of Cognito needs its pool: use --identity-pool-id or --config", USAGE)
    else:
        credentials = BotocoreProvider(arguments.profile).get_frozen_credentials()
        _line("credentials", "of botocore's chain: environment, shared files, SSO, container, instance")
    _line("access key", credentials.access_key)
    if credentials.expires_at is not None:
        _line("expires", credentials.expires_at.isoformat(timespec="seconds"))
    return OK


def _line(what: str, text: str) -> None:
    show(f"{what:<12} {text}")
