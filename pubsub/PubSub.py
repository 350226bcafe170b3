"""The error of `from pubsub import PubSub` if the package's `__init__.py` is PyPubSub's, or was removed with PyPubSub.

Python looks for a module of this name only if the package itself has no `PubSub`. A program that imports every module
gets the class from here, so that the module never takes its place.
"""

from __future__ import annotations

import sys

from pubsub.other_distribution import check

check()

from pubsub.sync import PubSub  # noqa: E402 - the check comes before any other module of this package

sys.modules[__name__] = PubSub  # type: ignore[assignment]
