"""What is to be said of a clustering: how good it is, and which videos are odd."""
