"""How the shipped weights were made: one loop (`fit`) and one flat recipe per weight file."""
