"""The `penstock` command: `up` starts a Penstock, all other commands use a running one."""
