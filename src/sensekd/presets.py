"""Presets of a recipe: names for sets of keys."""

from __future__ import annotations

from typing import Any, Final

# What the published code does differently, as keys; what a recipe says itself wins.
PRESETS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "published": {
        "senses": {"units": "raw", "assignment": "predicted", "k": 10},
        "loss": {
            "targets": "published",
            "positions": {"fraction": 0.4, "minimum": 25},
            "neighbours": 25,
            "alpha": 0.7,
            "kappa": 5,
            "pull": "absolute",
            "push": "absolute",
            "margin": 1.0,
            "lambda": 1.0,
            "divergence": "forward",
        },
    }
}


def with_preset(tree: Any) -> Any:
    """A recipe's tree with the keys of its preset filled in where it leaves them out."""
    preset = PRESETS.get(str(tree.get("preset"))) if isinstance(tree, dict) else None
    if preset is None:
        return tree
    filled = dict(tree)
    for section, keys in preset.items():
        own = tree.get(section, {})
        if isinstance(own, dict):
            # A field may be named by its alias or by its own name.
            given = {"lambda" if key == "lam" else key: value for key, value in own.items()}
            filled[section] = keys | given
    return filled
