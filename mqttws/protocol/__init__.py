"""Sans-IO state machines: bytes and `now` in, bytes and events out. No socket, clock, thread, log or random here."""
