"""Valkey: the state machine's function library, and the calls into it."""

from penstock.store.caller import Store
from penstock.store.library import LIBRARY_VERSION, LibraryError

__all__ = ["LIBRARY_VERSION", "LibraryError", "Store"]
