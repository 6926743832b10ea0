"""The scheduler: admits work, orders it and hands it out to workers."""
