"""Prints docs/reference-recipe.md: every key of a recipe with its type and default, from the code (`make docs`)."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sensekd.config import Recipe

_HEAD: Final = """\
# Every key of a recipe

Made from the code by `make docs`. A recipe is one YAML tree; a key that is not listed here is an error, and `sensekd
check` names all errors at once. `--set section.key=value` overrides one key. Paths are relative to the folder in which
the command is typed; `${SENSEKD_DATA}` in a value stands for the environment variable of that name, and no other
variable is read.
"""


def _plain(annotation: Any) -> Any:
    """The type behind `Annotated`, whatever bounds it has."""
    return _plain(typing.get_args(annotation)[0]) if typing.get_origin(annotation) is typing.Annotated else annotation


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a type can hold, in order."""
    annotation = _plain(annotation)
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in sections_in(part)]


def bounds_of(metadata: list[Any]) -> list[str]:
    """What a number may be, such as `> 0`."""
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return [f"{sign} {getattr(each, name)}" for each in metadata for name, sign in signs.items() if hasattr(each, name)]


def written(annotation: Any, metadata: list[Any], headings: dict[type[BaseModel], str]) -> str:
    """A type as a reader of YAML knows it; a section by a link to its heading."""
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *more = typing.get_args(annotation)
        found = [field for each in more for field in (each.metadata if isinstance(each, FieldInfo) else [each])]
        return written(inner, [*found, *metadata], headings)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(written(each, metadata, headings) for each in arguments if each is not type(None))
    if annotation in headings:
        heading = headings[annotation]
        return f"[{heading}](#{heading.replace('.', '')})"
    if origin is tuple or annotation is tuple:
        return f"list of {written(arguments[0], [], headings)}"
    if origin is dict or annotation is dict:
        return (
            "mapping" if not arguments or arguments[1] is Any else f"mapping to {written(arguments[1], [], headings)}"
        )
    names = {str: "text", bool: "true or false", int: "integer", float: "number"}
    return " ".join([names.get(annotation, str(annotation)), ", ".join(bounds_of(metadata))]).strip()


def default_of(field: FieldInfo) -> str:
    """The default as it would stand in YAML."""
    value = field.default_factory() if field.default_factory is not None else field.default  # type: ignore[call-arg]
    if value is PydanticUndefined:
        return "**required**"
    if isinstance(value, BaseModel):
        return "all defaults"
    if value is None or value in ((), {}, ""):
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value)}`".replace("'", "") if isinstance(value, tuple) else f"`{value}`"


def table(section: type[BaseModel], headings: dict[type[BaseModel], str]) -> str:
    """Heading, docstring and keys of one section."""
    lines = [
        f"## {headings[section]}",
        "",
        inspect.getdoc(section) or "",
        "",
        "| key | value | default |",
        "|---|---|---|",
    ]
    for name, field in section.model_fields.items():
        value = written(field.annotation, list(field.metadata), headings)
        lines.append(f"| `{field.alias or name}` | {value} | {default_of(field)} |")
    return "\n".join(lines)


def page() -> str:
    """The whole page: the recipe, then every section under the key that first names it."""
    headings: dict[type[BaseModel], str] = {Recipe: "recipe"}
    for section in (waiting := [Recipe]):
        for name, field in section.model_fields.items():
            for found in sections_in(field.annotation):
                if found not in headings:
                    above = "" if section is Recipe else f"{headings[section]}."
                    headings[found] = f"{above}{field.alias or name}"
                    waiting.append(found)
    return "\n".join([_HEAD, *(f"{table(section, headings)}\n" for section in headings)])


if __name__ == "__main__":
    print(page(), end="")
