"""What `penstock.client` and `penstock.worker` share. It is not for users."""
