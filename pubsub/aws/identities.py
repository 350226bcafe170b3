"""The import path of 0.1, kept for programs that use it: see `pubsub.aws.local.identities`."""

from __future__ import annotations

from pubsub.aws.local.identities import ALLOW_ALL, Identities

__all__ = ["ALLOW_ALL", "Identities"]
