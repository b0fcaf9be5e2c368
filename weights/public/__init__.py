"""Public checkpoints: readers and writers of the layouts in which others publish their weights."""
