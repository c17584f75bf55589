"""The command `towncast` with the benchmark's traffic domain: `python -m benchmarks.serving_process serve`."""

from benchmarks.serving_domain import substitute

# Outside the guard below: worker processes import this module again, under another name, and need the domain too.
substitute()

if __name__ == "__main__":
    from pipelines.cli import main

    main()
