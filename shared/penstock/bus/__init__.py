"""NATS: connections, requests and replies, hints, streams and their consumers."""
