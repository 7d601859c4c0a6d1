"""What the losses cost, beside what else does their work: `python -m benchmarks`."""
