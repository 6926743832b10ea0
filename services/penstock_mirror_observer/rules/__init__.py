"""Mirror rules and triggers: they turn messages of other systems into observations or into new work."""
