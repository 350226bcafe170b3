"""The TLS context for the options of a command. Imported only if there is such an option."""

from __future__ import annotations

import argparse
import os
import ssl

import mqttws
from pubsub.cli import USAGE, Failure
from pubsub.cli.streams import ask_secret


def make_context(arguments: argparse.Namespace) -> ssl.SSLContext:
    """Return the TLS context for the arguments of a command.

    Raises:
        Failure: The options contradict each other, or a file cannot be used.
    """
    if arguments.key and not arguments.cert:
        raise Failure("--key needs --cert, the certificate of that key", USAGE)
    asked = arguments.ask_key_password or getattr(arguments, "key_password", None)
    if (asked or arguments.key_password_file) and not arguments.cert:
        raise Failure("the password of a key needs --cert, and --key unless the key is in the same file", USAGE)
    if arguments.url.partition("://")[0].lower() not in ("wss", "mqtts"):
        raise Failure("the TLS options need a URL with TLS: wss:// or mqtts://", USAGE)
    try:
        context = mqttws.tls_context(
            ca_file=arguments.cafile,
            certificate=arguments.cert,
            key=arguments.key,
            key_password=key_password(arguments),
            alpn=arguments.tls_alpn,
            insecure_no_verification=arguments.insecure,
        )
        if arguments.capath:
            if not os.path.isdir(arguments.capath):
                raise Failure(f"--capath {arguments.capath!r} is not a directory", USAGE)
            context.load_verify_locations(capath=arguments.capath)
        if arguments.ciphers:
            context.set_ciphers(arguments.ciphers)
        if arguments.tls_version:
            version = ssl.TLSVersion[arguments.tls_version.replace("tlsv1.", "TLSv1_")]
            context.minimum_version = context.maximum_version = version
        if arguments.psk is not None:
            _use_pre_shared_key(context, arguments)
    except ValueError as error:
        if "the private key is encrypted" in str(error):
            raise Failure(f"{error}: use --ask-key-password or --key-password-file", USAGE) from None
        raise Failure(f"the TLS options cannot be used: {error}", USAGE) from None
    except OSError as error:  # an ssl.SSLError is one
        raise Failure(f"the TLS options cannot be used: {error.strerror or error}", USAGE) from None
    return context


def key_password(arguments: argparse.Namespace) -> str | None:
    """Return the password of the private key: the answer to a question, or the first line of a file; None without."""
    if arguments.ask_key_password:
        return ask_secret("password of the private key: ")
    if getattr(arguments, "key_password", None) is not None:  # the answer to that question
        return str(arguments.key_password)
    if arguments.key_password_file is None:
        return None
    with open(arguments.key_password_file) as file:
        return file.readline().rstrip("\n")


def _use_pre_shared_key(context: ssl.SSLContext, arguments: argparse.Namespace) -> None:
    """Authenticate both sides by a pre-shared key. Spec: RFC 4279."""
    if not hasattr(context, "set_psk_client_callback"):
        raise Failure("--psk needs Python 3.13 or later", USAGE)
    try:
        key = bytes.fromhex(arguments.psk)
    except ValueError:
        raise Failure("--psk is not hexadecimal", USAGE) from None
    context.check_hostname = False  # there is no certificate: the key authenticates the server, too
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # Python does not provide OpenSSL's callback of TLS 1.3
    context.set_ciphers(arguments.ciphers or "PSK")
    for cipher in context.get_ciphers():  # with another cipher the server would not be authenticated
        if cipher["protocol"] != "TLSv1.3" and "PSK" not in cipher["name"]:
            raise Failure(f"--psk accepts only ciphers with a pre-shared key, not {cipher['name']}", USAGE)
    context.set_psk_client_callback(lambda hint: (arguments.psk_identity, key))
