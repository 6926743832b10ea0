"""Why an execution does not run, in a sentence."""
