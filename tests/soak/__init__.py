"""`make soak`: random faults over random load, and a checker that shares no code with Penstock."""
