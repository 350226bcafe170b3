"""Stores in files. `mqttws.protocol.store` defines the interface of a store."""
