"""The reference: everything in it comes from the code."""

from building import python, tables_of


def pages() -> dict[str, str]:
    """Return the pages of the reference, by their path."""
    return {**python.pages(), **tables_of.pages()}
