"""Least privilege for a deployment: who may use which subjects and keys, and the files that say so to the servers."""
