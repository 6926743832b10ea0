"""What the tests of these examples need: a running Penstock."""

pytest_plugins = ["penstock.testing"]
