"""The one kind of error that is shown to a person as a sentence and nothing else."""


class UsageError(Exception):
    """Something only the user can put right; the message says what is wrong, where, what to do."""
