"""`python -m pubsub`, and the command `pubsub`."""

from __future__ import annotations

import gc
import sys

# The collector would examine the modules again and again while they are imported.
gc.set_threshold(10_000)

from pubsub import cli  # noqa: E402


def main() -> int:
    """Run a command in a process that ends with it. Return the exit code."""
    try:
        return cli.main()
    finally:
        gc.freeze()  # the process ends, so there is no use in examining all of its objects once more


if __name__ == "__main__":
    sys.exit(main())
