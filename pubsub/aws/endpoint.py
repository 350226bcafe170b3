"""The import path of 0.1, kept for programs that use it: see `pubsub.aws.local.endpoint`."""

from __future__ import annotations

from pubsub.aws.local.endpoint import LocalIoTEndpoint

__all__ = ["LocalIoTEndpoint"]
