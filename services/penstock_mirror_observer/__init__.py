"""The mirror-observer: follows flows that somebody else runs, by what is observed of their steps."""
