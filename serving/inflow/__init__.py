"""Readings that arrive while the API runs, over HTTP, MQTT and NATS."""
