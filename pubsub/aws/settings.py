"""Amplify's configuration files, of every generation, read into one flat dict of the settings that PubSub needs.

    read_settings("aws-exports.js")
    {"aws_project_region": "eu-west-1", "aws_cognito_identity_pool_id": "eu-west-1:…", …}

It opens no connection and knows nothing of what the settings are for.

The one idea: the generations differ only in where a setting stands.  For each setting there is a list of places,
tried in order, in whatever file or dict was given; the kind of file needs no guessing.
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

# The first generation writes flat names; `Amplify.configure` of old took them by category; the files for phones
# nest them by plugin; the second generation has `auth`, and what the developer put under `custom`.
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
    """A configuration cannot be read; the message says where, what was found and what was expected."""


def read_settings(source: SettingsSource) -> dict[str, str]:
    """Read the settings for PubSub.

    Args:
        source: The path of `aws-exports.js`, `amplifyconfiguration.json` or `amplify_outputs.json`, or the same as
            a dict.

    Returns:
        Those found of `aws_pubsub_region`, `aws_pubsub_endpoint`, `aws_cognito_identity_pool_id` and
        `aws_project_region`.

    Raises:
        SettingsError: It is not such a configuration, or a setting is not a text.
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
            f"{name}: none of {', '.join(_PLACES)} is in it, and no 'auth' of an amplify_outputs.json; is it "
            "the file that Amplify made?"
        )
    return settings


def _read_file(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise SettingsError(f"{path}: it has more than {_MOST_BYTES} bytes; no configuration is so long")
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
        raise SettingsError(f"{where} is the expression {value.text!r}, which is not run; write the value itself")
    if not isinstance(value, str) or not value.strip():
        seen = "empty" if isinstance(value, str) else f"a {type(value).__name__}"
        raise SettingsError(f"{where} is {seen}; expected text")
    return value.strip()
