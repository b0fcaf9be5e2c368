"""The studio: every method in a page on one's own machine, with the code of what one sees."""
