"""Sans-IO state machines: they take bytes and the time, and return bytes and events. They do no I/O."""
