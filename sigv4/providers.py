"""Credentials providers: the environment, the shared files, and botocore's whole chain.

Each provider has one method, `get_frozen_credentials()`. It reads its source again at each call, so that credentials
that a login tool has just written are found at the next attempt. If it finds none, the message contains the places
where it looked. Messages describe a mistake in a file without quoting the file, because the invalid line can contain
the secret.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .credentials import Credentials, CredentialsProvider, fetch
from .errors import CredentialsUnavailable

if TYPE_CHECKING:
    from configparser import RawConfigParser

__all__ = ["BotocoreProvider", "ChainProvider", "EnvironmentProvider", "SharedFileProvider"]


#: The methods of botocore's credentials that the program has made.
_MADE = ("explicit", "manual")


class EnvironmentProvider:
    """Credentials from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, when temporary, `AWS_SESSION_TOKEN`.

    Args:
        environ: The variables to read; None reads `os.environ` at each fetch.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = environ

    def get_frozen_credentials(self) -> Credentials:
        """Return the credentials of the environment, whose variables are read now.

        Raises:
            CredentialsUnavailable: One of the two keys is not set, is empty or is not valid.
        """
        environ = os.environ if self._environ is None else self._environ
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        missing = [name for name in names if not environ.get(name)]
        if missing:
            raise CredentialsUnavailable(f"environment: {' and '.join(missing)} not set")
        try:
            return Credentials(environ[names[0]], environ[names[1]], environ.get("AWS_SESSION_TOKEN"))
        except ValueError as error:
            raise CredentialsUnavailable(f"environment: {error}") from None


class SharedFileProvider:
    """Credentials from a profile of the shared files, `~/.aws/credentials` and then `~/.aws/config`.

    Args:
        profile: The profile's name; None takes `AWS_PROFILE`, or else `default`.
        path: The credentials file; None takes `AWS_SHARED_CREDENTIALS_FILE`, or else `~/.aws/credentials`.
        config_path: The config file; None takes `AWS_CONFIG_FILE`, or else `~/.aws/config`.
        environ: The variables to read; None reads `os.environ` at each fetch.
    """

    def __init__(
        self,
        profile: str | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        config_path: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._profile = profile
        self._path = path
        self._config_path = config_path
        self._environ = environ

    def get_frozen_credentials(self) -> Credentials:
        """Return the credentials of the profile, whose files are read now.

        Raises:
            CredentialsUnavailable: There is no file, no such profile, no valid keys in it, or a file cannot be parsed.
        """
        environ = os.environ if self._environ is None else self._environ
        profile = self._profile or environ.get("AWS_PROFILE") or "default"
        path = self._path or environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
        config = self._config_path or environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
        looked: list[str] = []
        for file, in_config in ((path, False), (config, True)):
            found = _read_profile(os.path.expanduser(file), profile, in_config, looked)
            if found is not None:
                return found
        raise CredentialsUnavailable(f"profile {profile!r}: {'; '.join(looked)}")


def _read_profile(path: str, profile: str, in_config: bool, looked: list[str]) -> Credentials | None:
    """Read a profile in one file; if that fails, return None and append the reason to `looked`."""
    parser = _parse(path, looked)
    if parser is None:
        return None
    sections = {section: section for section in parser.sections()}
    if in_config:
        sections = {"default": "default"} if "default" in sections else {}
        sections.update((_profile_of(section), section) for section in parser.sections())
    section = sections.get(profile)
    if section is None:
        wanted = f"profile {profile}" if in_config and profile != "default" else profile
        looked.append(f"{path} has no section [{wanted}] among {', '.join(parser.sections()) or 'none'}")
        return None
    values = parser[section]
    access_key, secret_key = values.get("aws_access_key_id"), values.get("aws_secret_access_key")
    if access_key and secret_key:
        try:
            return Credentials(access_key, secret_key, values.get("aws_session_token"))
        except ValueError as error:
            looked.append(f"[{section}] of {path}: {error}")
            return None
    hint = ""
    if any(name in values for name in ("role_arn", "credential_process", "sso_session", "sso_start_url")):
        hint = " (this profile needs botocore's chain: use BotocoreProvider)"
    looked.append(f"[{section}] of {path} does not have both aws_access_key_id and aws_secret_access_key{hint}")
    return None


def _profile_of(section: str) -> str:
    """Return the profile of a section of the config file: NAME of `[profile NAME]`, which may be quoted; else ""."""
    import shlex  # imported here because most programs do not read the files

    try:
        first, *name = shlex.split(section)
    except ValueError:  # empty, or an open quote
        return ""
    return " ".join(name) if first == "profile" else ""


def _parse(path: str, looked: list[str]) -> RawConfigParser | None:
    import configparser  # imported here because most programs do not read the files

    # No section provides defaults for the others: AWS's `default` is a profile like any other.
    parser = configparser.RawConfigParser(default_section="\n")
    try:
        with open(path, encoding="utf-8-sig") as file:
            parser.read_file(file)
    except FileNotFoundError:
        looked.append(f"{path} does not exist")
    except OSError as error:
        looked.append(f"{path} cannot be read: {error.strerror}")
    except (configparser.Error, UnicodeDecodeError) as error:
        # The exception's own message quotes the line, which can contain the secret.
        looked.append(f"{path} is not a valid INI file ({type(error).__name__})")
    else:
        return parser
    return None


class ChainProvider:
    """The first of several providers that has credentials.

    Args:
        providers: The providers, in the order in which to try them. Without any: the environment, then the shared
            files.
    """

    def __init__(self, *providers: CredentialsProvider) -> None:
        self._providers = providers or (EnvironmentProvider(), SharedFileProvider())

    def get_frozen_credentials(self) -> Credentials:
        """Return the credentials of the first provider that has any.

        Raises:
            CredentialsUnavailable: No provider has any; the message says where each one looked.
        """
        reasons = []
        for provider in self._providers:
            try:
                return fetch(provider)
            except CredentialsUnavailable as error:
                reasons.append(str(error))
        raise CredentialsUnavailable("; ".join(reasons))


class BotocoreProvider:
    """Credentials from botocore's whole chain: SSO, assumed roles, processes, containers, instances.

    Needs the extra `botocore`, which is imported at the first fetch. Credentials that botocore refreshes are kept, and
    refreshed when they are about to expire. All others are read again at each fetch, which takes 10 to 20 ms without
    `session`, because botocore begins anew.

    Args:
        profile: The profile's name; None lets botocore choose.
        session: The `botocore.session.Session` to use, and its credentials if they were set; or any object with
            `get_credentials()`, such as a `boto3.Session`, which keeps the credentials that it finds first. None
            creates a session.
    """

    def __init__(self, profile: str | None = None, *, session: Any = None) -> None:
        self._profile = profile
        self._session = session
        self._kept: Any = None  # a session of ours whose credentials refresh themselves

    def get_frozen_credentials(self) -> Credentials:
        """Return the credentials of botocore's chain. May use the network.

        Raises:
            CredentialsUnavailable: botocore is not installed or found no credentials: for example, there is no such
                profile, there was no login, or a role was refused.
        """
        try:
            return fetch(self._ask)
        except CredentialsUnavailable:
            self._kept = None  # what it was made of, such as the keys that assume a role, may be written anew
            raise

    def _ask(self) -> Any:
        session = self._session or self._kept or self._new_session()
        found = session.get_credentials()
        if found is None:
            raise CredentialsUnavailable("botocore's chain found no credentials")
        # A session keeps the credentials that it has found. Only these stay valid: they are refreshed, or were made by
        # the program. A `boto3.Session` has no method to read them again.
        if hasattr(found, "refresh_needed"):
            self._kept = session
        elif session is self._session and hasattr(session, "get_component") and found.method not in _MADE:
            found = session.get_component("credential_provider").load_credentials()
        return found

    def _new_session(self) -> Any:
        try:
            session = import_module("botocore.session")
        except ImportError:
            raise CredentialsUnavailable("botocore is not installed: pip install 'mqttws-pubsub[botocore]'") from None
        return session.Session(profile=self._profile)
