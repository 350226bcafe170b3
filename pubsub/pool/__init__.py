"""Several connections in the place of one: what `Sharded` makes of a provider. No input or output but in the faces.

A `Pool` has the verbs of a client, and is made of clients, its *parts*. So all above it (`channel`, `router`,
`subscription`) is as it is with one connection, retained messages once and each member's messages once included.

    slots.py      which part a topic is published through: a bounded table, sticky while messages are on their way
    places.py     which part has which Topic Filter, and which of several filters owns a message
    handover.py   filters on their way from one part to another: what is a copy, what is new
    gather.py     several answers as one, several states as one
    parts.py      the parts, and their states
    receiving.py  which messages are delivered
    asking.py     what is subscribed to, and where
    core.py       publishing, and how many parts there are
    moving.py     handovers one after the other: begin, follow, hold, finish
    sizing.py     how many parts there are to be
    pubsub/sync/pool.py, pubsub/aio/pool.py       what waits: open, close, publish, flush, the messages

Lock order: that of the `PubSub`, then the pool's, then a part's. Nothing of the user's runs under it, and no callback
of a part's future is added under it: a future that is done calls back at once.
"""

from __future__ import annotations
