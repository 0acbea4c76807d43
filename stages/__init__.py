"""The ladder as data: its stages, their order, and what each changes."""
