"""A base for models whose JSON schema describes every field by the docstring below it.

The source is read when a schema is generated, for the OpenAPI document. Pydantic's `use_attribute_docstrings`
would read it at every start of every process.
"""

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler


class Described(BaseModel):
    """Adds descriptions to the JSON schema of its subclasses."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the schema with the docstrings of fields, and the value of constants."""
        schema = handler(core_schema)
        own = handler.resolve_ref_schema(schema)
        generic = cls.__pydantic_generic_metadata__["origin"]
        if generic is not None and generic.__doc__:
            own.setdefault("description", inspect.cleandoc(generic.__doc__))
        properties = own.get("properties", {})
        for name, field in cls.model_fields.items():
            shown = properties.get(field.alias or name)
            if shown is None:
                continue
            if text := _docstring(cls, name):
                shown["description"] = text
            elif "const" in shown and "description" not in shown:
                shown["description"] = f"Always `{str(shown['const']).lower()}`."
        return schema


def _docstring(model: type[BaseModel], field: str) -> str | None:
    """Return the docstring of a field, of the nearest class that has one."""
    for base in model.__mro__:
        if text := _docstrings(base.__module__).get((base.__qualname__, field)):
            return text
    return None


@cache
def _docstrings(module: str) -> dict[tuple[str, str], str]:
    """Return (class, field) -> docstring of a module of this program."""
    path = getattr(sys.modules[module], "__file__", None)
    if path is None or not module.startswith("app."):
        return {}
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    return {(found.name, field): text for found in classes for field, text in _fields(found)}


def _fields(found: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in zip(found.body, found.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, " ".join(inspect.cleandoc(text).split())
