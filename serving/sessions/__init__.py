"""Sessions of simulated processes: each has its own state, parameters, history and log."""
