"""Everything that answers a request: the API, the runtimes and what they need."""
