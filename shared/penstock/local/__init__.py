"""A Penstock on this machine: servers and services as processes, supervised. For `penstock up` and for tests."""
