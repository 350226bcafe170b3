"""Bytes <-> packets. Independent of connections, roles and clocks; the only state is the decoder's buffer."""

from __future__ import annotations

#: Whether this is the compiled build: the same sources, compiled by mypyc. Pure Python is the reference.
compiled: bool = not __file__.endswith(".py")
