"""Flows: made, changed, looked at."""
