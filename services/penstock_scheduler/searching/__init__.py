"""Find executions by a filter, and change all that match one."""
