"""A pool of connections that is used like one connection: the implementation of `Sharded`.

A `Pool` has the methods of a client, and consists of clients, its *parts*. So the code above it (`channel`, `router`,
`subscription`) works as with one connection: each member gets each message, retained ones too, once.

    slots.py        the part through which a topic is published: a bounded table, fixed while messages are in flight
    places.py       the part on which each Topic Filter is, and which of several filters owns a message
    handover.py     Topic Filters that move from one part to another: which messages are copies, which are new
    gather.py       several answers combined into one, several states into one
    parts.py        the parts, and their states
    receiving.py    which messages are delivered
    subscribing.py  subscribing and unsubscribing on the parts
    core.py         publishing, and changes of the number of parts
    moving.py       the sequence of handovers: begin, follow, hold, finish
    budgets.py      how often parts connect
    sizing.py       the number of parts
    pubsub/sync/pool.py, pubsub/aio/pool.py       what waits: open, close, publish, flush, the messages

Only the last two do I/O. Lock order: the lock of the `PubSub`, then the pool's, then a part's. No code of the user runs
under the pool's lock, and no callback is added to a part's future under it, because a future that is done calls back
immediately.
"""

from __future__ import annotations
