"""Reading Amplify's configuration files, of every generation, into one flat dict of the settings for PubSub.

    read_settings("aws-exports.js")
    {"aws_project_region": "eu-west-1", "aws_cognito_identity_pool_id": "eu-west-1:…", …}

The generations differ only in the place of a setting. For each setting there is a list of places, which are tried in
order in any file or dict. So the kind of the file need not be known.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from pubsub.aws.settings_js import Expression, read_exported_object

__all__ = ["SettingsError", "SettingsSource", "read_settings"]

SettingsSource: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]

_SCRIPTS = {".js", ".mjs", ".cjs", ".ts", ".mts"}
_MOST_BYTES = 4_000_000

_MOBILE_POOL = ("auth", "plugins", "awsCognitoAuthPlugin", "CredentialsProvider", "CognitoIdentity", "Default")

# The first generation has flat names; early versions of `Amplify.configure` nested them by category; the files for
# phones nest them by plugin; the second generation has `auth`, and the developer's settings under `custom`.
_PLACES: dict[str, tuple[tuple[str, ...], ...]] = {
    "aws_pubsub_region": (
        ("aws_pubsub_region",),
        ("PubSub", "aws_pubsub_region"),
        ("PubSub", "region"),
        ("custom", "aws_pubsub_region"),
        ("custom", "PubSub", "aws_pubsub_region"),
        ("custom", "PubSub", "region"),
        ("custom", "pubsub", "aws_pubsub_region"),
        ("custom", "pubsub", "region"),
    ),
    "aws_pubsub_endpoint": (
        ("aws_pubsub_endpoint",),
        ("PubSub", "aws_pubsub_endpoint"),
        ("PubSub", "endpoint"),
        ("custom", "aws_pubsub_endpoint"),
        ("custom", "PubSub", "aws_pubsub_endpoint"),
        ("custom", "PubSub", "endpoint"),
        ("custom", "pubsub", "aws_pubsub_endpoint"),
        ("custom", "pubsub", "endpoint"),
    ),
    "aws_cognito_identity_pool_id": (
        ("aws_cognito_identity_pool_id",),
        ("Auth", "identityPoolId"),
        ("Auth", "Cognito", "identityPoolId"),
        ("auth", "identity_pool_id"),
        (*_MOBILE_POOL, "PoolId"),
    ),
    "aws_project_region": (
        ("aws_project_region",),
        ("aws_cognito_region",),
        ("Auth", "region"),
        ("auth", "aws_region"),
        (*_MOBILE_POOL, "Region"),
    ),
}


class SettingsError(ValueError):
    """A configuration is not valid. The message contains the place, what was found and what was expected."""


def read_settings(source: SettingsSource) -> dict[str, str]:
    """Read the settings for PubSub.

    Args:
        source: The path of `aws-exports.js`, `amplifyconfiguration.json` or `amplify_outputs.json`, or its content as a
            dict.

    Returns:
        The settings that were found of `aws_pubsub_region`, `aws_pubsub_endpoint`, `aws_cognito_identity_pool_id` and
        `aws_project_region`.

    Raises:
        SettingsError: This is not such a configuration, or a setting is not a str.
        OSError: The file cannot be read.
    """
    if isinstance(source, Mapping):
        name, given = "the configuration", source
    else:
        path = Path(source)
        name, given = str(path), _read_file(path)
    settings = {}
    for setting, places in _PLACES.items():
        for place in places:
            value = _at(given, place)
            if value is not None:
                settings[setting] = _checked(value, f"{name}: {'.'.join(place)}")
                break
    if not settings:
        raise SettingsError(
            f"{name}: it contains none of {', '.join(_PLACES)}, and no 'auth' of an amplify_outputs.json; is it the "
            "file that Amplify generated?"
        )
    return settings


def _read_file(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise SettingsError(f"{path}: it has more than {_MOST_BYTES} bytes, too many for a configuration")
    try:
        text = data.decode("utf-8-sig")
        if path.suffix.lower() in _SCRIPTS:
            return read_exported_object(text)
        document = json.loads(text)
    except RecursionError:
        raise SettingsError(f"{path}: it is nested too deeply to be a configuration") from None
    except UnicodeDecodeError as fault:
        raise SettingsError(f"{path}: it is not UTF-8: {fault.reason} at byte {fault.start}") from None
    except ValueError as fault:
        raise SettingsError(f"{path}: {fault}") from None
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: it is a {type(document).__name__}; expected an object of settings")
    return document


def _at(given: object, place: tuple[str, ...]) -> object:
    for name in place:
        if not isinstance(given, Mapping):
            return None
        given = given.get(name)
    return given


def _checked(value: object, where: str) -> str:
    if isinstance(value, Expression):
        raise SettingsError(f"{where} is the expression {value.text!r}, which is not evaluated; write the value itself")
    if not isinstance(value, str) or not value.strip():
        seen = "empty" if isinstance(value, str) else f"a {type(value).__name__}"
        raise SettingsError(f"{where} is {seen}; expected text")
    return value.strip()
