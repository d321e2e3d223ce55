"""Sense knowledge distillation for decoder language models (DSKD, arXiv 2602.22351)."""

__version__ = "0.1.0"
