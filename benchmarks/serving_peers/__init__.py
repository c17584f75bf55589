"""Other servers that host the same model, each in a virtual environment of its own."""
