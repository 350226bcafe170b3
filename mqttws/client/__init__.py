"""A client without waiting: what both drivers are made of. No socket, lock, thread, event loop, clock or chance."""
