"""Drift detectors of others, as everybody uses them; those that need another environment are scripts."""
