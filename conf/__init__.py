"""The configuration: YAML groups that hold every default, and the types that check them."""

PACKAGES = ("conf", "gpt2", "reports", "runner", "stages")  # of this project
