"""The error that is shown to the user as one sentence, without a traceback."""


class UsageError(Exception):
    """An error that the user can correct; its message says what is wrong, where, and what to do."""

    reported = False  # whether it has been printed
