"""The figures: each module has `measure(...)`, which runs one round and returns {metric: number}."""
