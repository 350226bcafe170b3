"""The rooms that touch sockets, TLS, clocks, threads and event loops; what can do without is in `link` and `core`."""
