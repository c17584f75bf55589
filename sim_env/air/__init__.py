"""Simulators of the air."""
