"""Simulators of road traffic."""
