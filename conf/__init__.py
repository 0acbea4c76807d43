"""The configuration: YAML groups that hold every default, and the types that check them."""
