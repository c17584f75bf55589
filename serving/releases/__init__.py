"""Releases: which versions of a model answer, for whom, and what becomes of a new one."""
