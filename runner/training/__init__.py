"""The training of one model: the code in here changes a step's numbers."""
