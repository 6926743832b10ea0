"""One program for each system. All programs have the same three roles; see `common`."""
