"""Lanes and the workers that serve them."""
