"""The blocking driver: one thread moves the bytes of a client; the verbs are for the threads of its user."""
