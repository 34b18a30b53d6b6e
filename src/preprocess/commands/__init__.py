"""One module for each command of `preprocess`."""
