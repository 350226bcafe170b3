"""Bytes <-> packets. Nothing here knows a connection, a role or a clock; the only state is the decoder's buffer."""

from __future__ import annotations

#: Whether this is the compiled build: the same sources, put through mypyc. Pure Python is the reference.
compiled: bool = not __file__.endswith(".py")
