"""Gives the tests of these examples the fixture `penstock`, a running Penstock."""

pytest_plugins = ["penstock.testing"]
