"""The configuration: YAML groups that hold every default, and the types they are checked against."""
