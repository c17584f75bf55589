"""Monitoring: what was forecast beside what came, how sites do, what drifts, and what asks for a retraining."""
