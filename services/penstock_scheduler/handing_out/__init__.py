"""Hand out work: which workers wait, which tasks each worker gets, and how the tasks reach it."""
