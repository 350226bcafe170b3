"""The blocking client. Each client has one network thread, which reads and writes; any thread may call its methods."""
