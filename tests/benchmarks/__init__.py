"""`make bench`: how fast Penstock is, beside its peers, on this machine. Nothing here is a test."""
