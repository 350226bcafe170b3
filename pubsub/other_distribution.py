"""The check for the distribution PyPubSub, whose package is also named `pubsub`.

Both distributions install into the folder `pubsub` of site-packages, so their files are mixed. If the `__init__.py` of
this package was installed last, it finds PyPubSub's `pub.py` in its folder. If that of PyPubSub was, or if uninstalling
one of them removed the file, `pubsub.PubSub` and `pubsub.errors`, which nearly every module of this package imports,
find that the package lacks the names of this one.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing `typing` for it would delay the first message
if TYPE_CHECKING:
    from typing import NoReturn


def check() -> None:
    """Raise ImportError if the loaded package `pubsub` belongs to the other distribution."""
    if "MqttOverWSProvider" not in getattr(sys.modules["pubsub"], "__all__", ()):
        refuse()


def refuse() -> NoReturn:
    """Raise an ImportError with instructions."""
    raise ImportError(
        "the distributions mqttws-pubsub and PyPubSub are installed in the same environment, or were, and both are the "
        "package `pubsub`: use one environment for each; here, run `pip uninstall pypubsub mqttws-pubsub`, "
        "then install the one that you need",
        name="pubsub",
    )
