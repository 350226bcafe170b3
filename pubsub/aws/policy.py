"""The import path of 0.1, kept for programs that use it: see `pubsub.aws.local.policy`."""

from __future__ import annotations

from pubsub.aws.local.policy import Authorizer, ConnectionContext, PolicyDocument, PolicyError, Thing

__all__ = ["Authorizer", "ConnectionContext", "PolicyDocument", "PolicyError", "Thing"]
