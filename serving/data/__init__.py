"""Stored readings to look at: the document's data API."""
