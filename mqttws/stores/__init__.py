"""Stores in files; `mqttws.protocol.store` says what a store is."""
