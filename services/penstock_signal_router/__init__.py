"""The signal-router: waits and wakes."""
