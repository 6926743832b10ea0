"""Mirror rules: what other systems publish becomes observations."""
