"""The client without I/O, which the blocking and the asyncio driver share. It reads no clock and has no lock."""
