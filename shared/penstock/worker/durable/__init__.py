"""Durable functions: handlers that go on where they were after a crash, a wait or a deploy (docs/durable-
functions.md).
"""
