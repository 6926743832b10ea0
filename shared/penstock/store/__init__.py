"""Access to Valkey: loads the state machine's function library, and calls its functions."""

from penstock.store.caller import Store
from penstock.store.library import LIBRARY_VERSION, LibraryError
from penstock.store.places import UrlError

__all__ = ["LIBRARY_VERSION", "LibraryError", "Store", "UrlError"]
