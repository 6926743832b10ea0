"""The lease-keeper: leases, attempts, outcomes."""
