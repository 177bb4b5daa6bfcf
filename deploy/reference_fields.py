"""Tables of fields, from a JSON Schema: of settings, and of what travels on Kafka."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deploy.measured import table

Schema = Mapping[str, Any]
_BOUNDS: Final = (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"), ("exclusiveMaximum", "below"))
_LENGTHS: Final = (("minLength", "maxLength", "characters"), ("minItems", "maxItems", "of them"))
_REQUIRED: Final = "required"


@dataclass(frozen=True)
class Group:
    """Fields that stand in one object.

    Attributes:
        path: Dotted name of the object, empty at the top; ``[]`` follows a list's.
        meaning: What the object is.
        fields: Rows of name, type, default and meaning.
    """

    path: str
    meaning: str
    fields: Sequence[tuple[str, str, str, str]]


def groups(schema: Schema, defaults: Mapping[str, Any] | None = None) -> Iterator[Group]:
    """Walk an object's schema, the object itself first, then the objects within it.

    Args:
        schema: With its ``$defs``.
        defaults: Values that hold where nothing is set, in place of the schema's own.
    """
    yield from _walk(schema, schema.get("$defs", {}), "", defaults or {})


def _walk(one: Schema, known: Mapping[str, Schema], path: str, defaults: Mapping[str, Any]) -> Iterator[Group]:
    within: list[Iterator[Group]] = []
    rows = []
    for name, field in one.get("properties", {}).items():
        dotted = f"{path}.{name}" if path else name
        default = defaults.get(name, field.get("default"))
        inner, is_list = _object_in(field, known)
        if inner is not None:
            values = default if isinstance(default, Mapping) else {}
            within.append(_walk(inner, known, dotted + ("[]" if is_list else ""), values))
        is_group = inner is not None and not is_list and isinstance(default, Mapping)
        if not is_group:
            is_required = name in one.get("required", ()) and name not in defaults
            shown = _REQUIRED if is_required else _literal(default)
            rows.append((dotted, _type(field, known), shown, plain(field.get("description", ""))))
    yield Group(path, plain(one.get("description", "")), rows)
    for inner_groups in within:
        yield from inner_groups


def _object_in(field: Schema, known: Mapping[str, Schema]) -> tuple[Schema | None, bool]:
    """The object that a field holds, or whose list it holds, if any, and whether it is a list."""
    for kind in field.get("anyOf", [field]):
        is_list = "items" in kind
        named = (kind["items"] if is_list else kind).get("$ref", "").removeprefix("#/$defs/")
        if "properties" in known.get(named, {}):
            return known[named], is_list
    return None, False


def _type(field: Schema, known: Mapping[str, Schema]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(kind, known) for kind in field["anyOf"])
    if "$ref" in field:
        referred = known[field["$ref"].removeprefix("#/$defs/")]
        return "object" if "properties" in referred else _type(referred, known)
    if "const" in field:
        return _literal(field["const"])
    if "enum" in field:
        return ", ".join(_literal(value) for value in field["enum"])
    if "prefixItems" in field:
        return "[" + "; ".join(_type(item, known) for item in field["prefixItems"]) + "]"
    return ", ".join([_name_of(field, known), *_limits(field)])


def _name_of(field: Schema, known: Mapping[str, Schema]) -> str:
    if field.get("type") == "array":
        items = field.get("items")
        return "list of " + _type(items, known) if items else "list"
    return str(field.get("format") or field.get("type", "any"))


def _limits(field: Schema) -> Iterator[str]:
    bounds = " ".join(f"{word} {_number(field[key])}" for key, word in _BOUNDS if key in field)
    if bounds:
        yield bounds
    for least, most, what in _LENGTHS:
        if most in field:
            yield f"{field.get(least, 0)} to {field[most]:,} {what}"
    if "pattern" in field:
        yield _code(field["pattern"])


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


def _literal(value: object) -> str:
    return _code(value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False))


def _code(text: str) -> str:
    return "`" + text.replace("|", r"\|") + "`"


def plain(text: str) -> str:
    """A docstring's text as one line of a Markdown table."""
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(text.split())).replace("|", r"\|")


def field_table(rows: Sequence[tuple[str, str, str, str]], environment: str | None = None) -> list[str]:
    """Lines of a table of fields.

    Args:
        rows: As in a `Group`.
        environment: Prefix of the variable that sets a field too; None where none does.
    """
    return table(
        ("name", "type", "default", "meaning"),
        [(_named(name, environment), kind, default, meaning) for name, kind, default, meaning in rows],
    )


def _named(name: str, environment: str | None) -> str:
    if environment is None or "[]" in name:
        return _code(name)
    return f"{_code(name)}<br>{_code(environment + name.upper().replace('.', '__'))}"
