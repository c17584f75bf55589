"""The jobs, their schedules and the command line."""
