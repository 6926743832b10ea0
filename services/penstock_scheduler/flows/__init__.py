"""Flows: create, change and read them."""
