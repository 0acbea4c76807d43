"""What goes wrong with a report that the user can put right."""


class ReportError(Exception):
    """One sentence for the user: what is wrong, where, and what to do about it."""
