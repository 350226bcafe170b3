"""`python -m pubsub`, and the command `pubsub`."""

from __future__ import annotations

import sys

from pubsub.cli import main

if __name__ == "__main__":
    sys.exit(main())
