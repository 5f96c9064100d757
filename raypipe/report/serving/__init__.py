"""The page, served to one person's browser with its videos playing."""
