"""Preflight: what would stop a run, what it costs, and what each stage will do; no weights are loaded."""

from sensekd.pipeline.check.problems import problems, refuse_problems

__all__ = ["problems", "refuse_problems"]
