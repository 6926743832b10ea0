"""The mirror-observer: tracks flows that another system runs, from observations of their steps."""
