"""What creates executions at due times."""
