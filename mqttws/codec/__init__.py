"""Encoding and decoding of MQTT packets. It does not depend on connections or time; only the decoder has a buffer."""

from __future__ import annotations

#: Whether this is the compiled build: the same sources, compiled by mypyc. Pure Python is the reference.
compiled: bool = not __file__.endswith(".py")
