"""Schedules: create executions at due times."""
