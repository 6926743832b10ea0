"""The scheduler: admits work, orders it, hands it out."""
