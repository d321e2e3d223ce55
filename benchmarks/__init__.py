"""Benchmarks: ratios measured in one run against a named baseline. Not tests: a miss is written down, not raised."""
