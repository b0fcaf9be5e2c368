"""Trained weights: the model object, `load` and `save`, the files and their manifest, the judges."""
