"""Who may ask, how much, and what is written about it."""
