"""One command per claim: `python -m benchmarks.<name>`; `make bench` runs them all."""
