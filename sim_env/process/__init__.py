"""Simulators of processes: a reactor, a water tank, a room."""
