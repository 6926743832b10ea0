"""Executions come in, are looked at, steered and waited for."""
