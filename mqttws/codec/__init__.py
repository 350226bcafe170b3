"""Bytes <-> packets. Nothing here knows a connection, a role or a clock; the only state is the decoder's buffer."""
