"""An authenticator that reads users and password hashes from a file.

A line of the file is `name:scrypt$N$r$p$salt$hash`, with salt and hash in base64. Empty lines and lines that start with
"#" are ignored. Only scrypt hashes of passwords are stored. A hash takes tens of milliseconds by design, so it is
computed in separate threads (see `hashing`). An unknown name takes the same time, so that the time of the answer does
not reveal which names exist.

Spec: §5.4.1, RFC 7914
"""

from __future__ import annotations

import hashlib
import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mqttws.broker.hashing import Hashing
from mqttws.broker.hooks import Accepted, Answer, Peer, Refused
from mqttws.codec.connecting import Connect

#: The cost of a new hash: about 16 MiB and 50 ms. Spec: RFC 7914 §2
_N, _R, _P = 2**14, 8, 1
_SALT_BYTES = 16
_HASH_BYTES = 32
#: The maximum memory in bytes that the parameters of a hash may require.
_MAX_MEMORY = 256 * 1024 * 1024


class _Hash(NamedTuple):
    n: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    def matches(self, password: bytes) -> bool:
        digest = hashlib.scrypt(
            password, salt=self.salt, n=self.n, r=self.r, p=self.p, maxmem=_MAX_MEMORY, dklen=len(self.digest)
        )
        return hmac.compare_digest(digest, self.digest)

    def __repr__(self) -> str:
        return "<hash>"


def hash_password(password: str | bytes) -> str:
    """Hash a password for a line of the file.

    Args:
        password: The password; a str is encoded as UTF-8.

    Returns:
        `scrypt$N$r$p$salt$hash`, with a new random salt.
    """
    data = password.encode() if isinstance(password, str) else password
    salt = os.urandom(_SALT_BYTES)
    digest = hashlib.scrypt(data, salt=salt, n=_N, r=_R, p=_P, maxmem=_MAX_MEMORY, dklen=_HASH_BYTES)
    return "$".join(("scrypt", str(_N), str(_R), str(_P), b64encode(salt).decode(), b64encode(digest).decode()))


def _parse_hash(text: str) -> _Hash:
    method, n, r, p, salt, digest = text.split("$")
    if method != "scrypt":
        raise ValueError("not scrypt")
    parsed = _Hash(int(n), int(r), int(p), b64decode(salt, validate=True), b64decode(digest, validate=True))
    if parsed.n < 2 or parsed.n & (parsed.n - 1) or parsed.r < 1 or parsed.p < 1 or not parsed.digest:
        raise ValueError("invalid scrypt parameters")
    if 128 * parsed.r * (parsed.n + parsed.p + 2) > _MAX_MEMORY:
        raise ValueError("too much memory")
    return parsed


class Users:
    """An authenticator for user names and passwords: `Broker(authenticator=Users.load(path))`.

    Args:
        hashes: User name -> hash, as `hash_password` returns it.

    Raises:
        ValueError: A hash cannot be read.
    """

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes: dict[str, _Hash] = {}
        for name, text in hashes.items():
            try:
                self._hashes[name] = _parse_hash(text)
            except ValueError:  # the message must not contain the hash, which protects the password
                raise ValueError(
                    f"the hash of user {name!r} cannot be read; it must look like scrypt$N$r$p$salt$hash"
                ) from None
        self._nobody = _parse_hash(hash_password(os.urandom(16)))
        self._hashing = Hashing(self.check)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Users:
        """Read a file of users.

        Args:
            path: The file, in UTF-8, with or without a byte order mark.

        Returns:
            The authenticator.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is not UTF-8, a line is invalid, or a name occurs twice.
        """
        hashes: dict[str, str] = {}
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: it is not UTF-8 at byte {error.start}") from None
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, colon, text = line.strip().rpartition(":")  # a name may contain a colon, a hash does not
            if not colon or not name or name in hashes:
                raise ValueError(f"{path}, line {number}: expected name:scrypt$N$r$p$salt$hash, each name once")
            hashes[name] = text
        return cls(hashes)

    def check(self, username: str, password: bytes) -> bool:
        """Return whether a password is the user's. This takes tens of milliseconds, the same for every wrong answer.

        Args:
            username: The user name.
            password: The password.
        """
        known = self._hashes.get(username)
        matches = (known or self._nobody).matches(password)
        return matches and known is not None

    async def __call__(self, peer: Peer, connect: Connect) -> Answer:
        """Accept or refuse a CONNECT; see `mqttws.broker.hooks`."""
        if connect.username is None or connect.password is None:
            return Refused(5, "the user name or the password is missing")
        matches = await self._hashing.check(peer.address[0], connect.username, connect.password)
        if matches is None:
            return Refused(3, "too many passwords from this address are waiting to be checked")
        if matches:
            return Accepted()
        return Refused(4, "the user name or the password is wrong")

    def __getstate__(self) -> dict[str, object]:
        return {"_hashes": self._hashes, "_nobody": self._nobody}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._hashing = Hashing(self.check)

    def __repr__(self) -> str:
        return f"Users({len(self._hashes)})"
