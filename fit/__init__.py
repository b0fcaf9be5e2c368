"""The training loop that every recipe uses."""
