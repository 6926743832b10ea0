"""The `penstock` command: `up`, and everything that a person asks of a running Penstock."""
