"""Penstock: durable execution as NATS services, with state in Valkey."""

from penstock.errors import PenstockError

__version__ = "0.1.0"

__all__ = ["PenstockError", "__version__"]
