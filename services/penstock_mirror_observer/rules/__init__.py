"""Mirror rules and triggers: what other systems publish becomes observations, or starts work."""
