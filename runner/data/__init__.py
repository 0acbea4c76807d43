"""From a text to micro batches of tokens."""
