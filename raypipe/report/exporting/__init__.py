"""What a run found, in the forms that other tools read."""
