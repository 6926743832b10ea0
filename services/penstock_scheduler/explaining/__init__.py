"""Explain in a sentence why an execution does not run."""
