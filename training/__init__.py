"""Forecasters: fit, judge, calibrate, export, register."""
