"""The error of `from pubsub import PubSub` if the package's `__init__.py` is PyPubSub's, or was removed with PyPubSub.

Python looks for a module of this name only if the package itself has no `PubSub`.
"""

from __future__ import annotations

from pubsub.other_distribution import check

check()
raise ImportError("PubSub is a class of the package pubsub: use `from pubsub import PubSub`", name=__name__)
