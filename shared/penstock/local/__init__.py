"""Run Penstock on this machine: supervised server and service processes, for `penstock up` and for tests."""
