"""What is measured: each module has `measure(...)`, which answers {metric: number} of one round."""
