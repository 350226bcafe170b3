"""The refusal to be imported together with PyPubSub, whose package has the same name.

Both distributions install into the folder `pubsub` of site-packages, so that their files mix. Where this package's
`__init__.py` was written last, it finds PyPubSub's `pub.py` beside itself; where PyPubSub's was, each module of this
package that needs an error finds a package that lacks the names of this one.
"""

from __future__ import annotations

import sys
from typing import NoReturn


def check() -> None:
    """Raise ImportError if the package that is loaded under the name `pubsub` is another distribution's."""
    if "MqttOverWSProvider" not in getattr(sys.modules["pubsub"], "__all__", ()):
        refuse()


def refuse() -> NoReturn:
    """Raise the ImportError that says what to do."""
    raise ImportError(
        "the distributions mqttws-pubsub and PyPubSub are installed in the same environment, and both are the package "
        "`pubsub`: use one environment for each; here, run `pip uninstall pypubsub mqttws-pubsub`, "
        "then install the one that you need",
        name="pubsub",
    )
