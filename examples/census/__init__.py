"""A census of Python's own standard library, run as a Penstock flow: see demo.py."""
