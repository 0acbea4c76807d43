"""The ladder as data: its stages, their order, what each changes; and the checks of a flow."""
