"""Looking at what a run holds: `view` as tables, `visualize` as pictures."""
