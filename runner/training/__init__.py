"""The training of one model: what is in here changes a step's numbers."""
