"""Runtimes: what turns windows into forecasts, from an artifact."""
