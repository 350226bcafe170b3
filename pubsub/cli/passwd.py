"""`pubsub passwd FILE NAME`: add a user to the file that `pubsub serve --users FILE` reads, or change a password."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mqttws.broker import hash_password
from pubsub.cli import OK, USAGE, Failure
from pubsub.cli.options import PASSWORD
from pubsub.cli.streams import ask_secret

#: Seconds to wait for others who change the file.
PATIENCE = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `passwd`."""
    parser.add_argument("file", metavar="FILE", help="file of users; it is created if it does not exist")
    parser.add_argument("name", metavar="NAME", help="user name")
    parser.add_argument("-D", "--delete", action="store_true", help="remove the user instead")


def run(arguments: argparse.Namespace) -> int:
    """Run `passwd`."""
    name = arguments.name
    if not name or not name.isprintable() or name.startswith("#") or name != name.strip():
        raise Failure(
            "a user name must be printable and not empty, and must not begin with '#' or begin or end with a space",
            USAGE,
        )
    added = None if arguments.delete else f"{name}:{hash_password(os.fsencode(_ask()))}"
    try:
        path = Path(arguments.file).resolve()  # a symbolic link stays one
        if path.is_symlink():
            raise Failure("the file cannot be changed: its symbolic links are a loop")
        with _lock(path.parent):
            lines = path.read_text(encoding="utf-8-sig").splitlines() if path.exists() else []
            kept = [line for line in lines if line.strip().rpartition(":")[0] != name]
            if added is not None:
                kept.append(added)
            elif len(kept) == len(lines):
                raise Failure(f"there is no user {name!r}")
            _write(path, "".join(line + "\n" for line in kept))
    except (OSError, RuntimeError) as error:  # before Python 3.13, a loop of symbolic links is a RuntimeError
        raise Failure(f"the file cannot be changed: {error}") from None
    except UnicodeDecodeError as error:
        raise Failure(f"the file is not a file of users: it is not UTF-8 at byte {error.start}") from None
    return OK


def _ask() -> str:
    password = os.environ.get(PASSWORD)
    if password is None:
        password = ask_secret("password: ")
        if ask_secret("once more: ") != password:
            raise Failure("the two passwords differ")
    if not password:
        raise Failure("the password is empty")
    return password


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Wait for others who change a file of this folder, and exclude them: the file itself is replaced.

    Raises:
        Failure: Another process has kept the lock for too long.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, PermissionError):  # Windows; or files can be changed here, but not listed
        yield
        return
    try:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Failure(f"the file cannot be changed: another process has locked {folder}") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, text: str) -> None:
    """Replace a file in one step. Owner, group and mode stay the same; only its owner may read a new one.

    Raises:
        Failure: This user must not make a file of that owner and group.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            if path.exists() and hasattr(os, "fchown"):
                old, new = path.stat(), os.stat(descriptor)
                if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                    _give(descriptor, old.st_uid, old.st_gid)
                os.fchmod(descriptor, old.st_mode & 0o777)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _give(descriptor: int, owner: int, group: int) -> None:
    try:
        os.fchown(descriptor, owner, group)
    except PermissionError:
        raise Failure(
            f"the file cannot be changed: user {os.geteuid()} cannot keep its owner {owner} and group {group}; "
            "run the command as that user and a member of that group, or as root"
        ) from None
