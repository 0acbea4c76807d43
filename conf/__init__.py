"""The configuration: YAML groups that hold every default, and the types that check them."""

# The packages of this project.
PACKAGES = ("conf", "gpt2", "reports", "runner", "stages")
