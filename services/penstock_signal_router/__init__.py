"""The signal-router: executions and flows wait for signals, events or times, and are woken by them."""
