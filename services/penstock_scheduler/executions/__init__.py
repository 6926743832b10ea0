"""Executions: create, read, control and wait for them."""
