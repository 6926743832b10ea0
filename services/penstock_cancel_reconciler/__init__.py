"""The cancel-reconciler: stops executions and flows, and makes sure they stopped."""
