"""The page of a run: one HTML file, its sections, and the explorer in it."""
