"""`make bench`: measures how fast Penstock and its peers are on this machine. Nothing here is a test."""
