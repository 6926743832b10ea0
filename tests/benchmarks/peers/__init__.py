"""One program for each system, all with the same three roles; see `common`."""
