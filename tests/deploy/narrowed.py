"""Whether a JSON Schema takes every document that another takes, told from the schemas alone.

It knows the keywords that pydantic writes; of any other it says so, rather than pass over it.
"""

_SAID_ONLY = {"$schema", "$defs", "title", "description", "default", "examples", "deprecated", "writeOnly"}
_AT_LEAST = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
_AT_MOST = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}
_SAME = {"pattern", "format", "uniqueItems", "contentEncoding"}
_HANDLED = {
    "$ref", "anyOf", "oneOf", "discriminator", "type", "enum", "const", "properties", "required",
    "additionalProperties", "items", "prefixItems", "propertyNames",
}  # fmt: skip
_KNOWN = _SAID_ONLY | _AT_LEAST | _AT_MOST | _SAME | _HANDLED


def narrowed(old, new):
    """List the places at which a document that the old schema takes may be refused by the new one."""
    return _Comparison(old, new).compare(old, new, "$")


class _Comparison:
    def __init__(self, old, new):
        self._of_old, self._of_new = old.get("$defs", {}), new.get("$defs", {})
        self._under_way = set()

    def compare(self, old, new, at):
        if new is True or old is False:
            return []
        if new is False or old is True:
            return [f"{at}: anything was taken"] if new is False or new else []
        pair = (old.get("$ref"), new.get("$ref"))
        if None not in pair:
            if pair in self._under_way:  # a type that holds itself
                return []
            self._under_way.add(pair)
        try:
            return self._branches(_resolved(old, self._of_old), _resolved(new, self._of_new), at)
        finally:
            self._under_way.discard(pair)

    def _branches(self, old, new, at):
        found = [f"{at}: unknown keyword {word}" for word in sorted((set(old) | set(new)) - _KNOWN)]
        ways, taken = (one.get("anyOf") or one.get("oneOf") for one in (old, new))
        if not ways and not taken:
            return found + self._one(old, new, at)
        for way in ways or [old]:
            refused = [self.compare(way, one, at) for one in taken or [new]]
            if all(refused):
                found += min(refused, key=len)
        return found

    def _one(self, old, new, at):
        was, now = _values(old), _values(new)
        if was is not None and "type" not in new and now is None:
            return []
        if now is not None:
            lost = "anything else" if was is None else sorted(map(repr, was - now))
            if lost:
                return [f"{at}: no longer taken: {lost}"]
        if _types(old) - _types(new):
            return [f"{at}: was {sorted(_types(old))}, is {sorted(_types(new))}"]
        return self._bounds(old, new, at) + self._object(old, new, at) + self._items(old, new, at)

    def _bounds(self, old, new, at):
        found = [f"{at}: {word} {new[word]}" for word in sorted(_SAME & set(new)) if old.get(word) != new[word]]
        for words, is_tighter in ((_AT_LEAST, lambda a, b: a > b), (_AT_MOST, lambda a, b: a < b)):
            tighter = [word for word in sorted(words & set(new)) if word not in old or is_tighter(new[word], old[word])]
            found += [f"{at}: {word} {new[word]}, was {old.get(word)}" for word in tighter]
        return found

    def _object(self, old, new, at):
        fields, taken = old.get("properties", {}), new.get("properties", {})
        others, other_taken = old.get("additionalProperties", True), new.get("additionalProperties", True)
        found = [
            f"{at}.{name}: now required" for name in new.get("required", []) if name not in old.get("required", [])
        ]
        for name, schema in fields.items():
            found += self.compare(schema, taken.get(name, other_taken), f"{at}.{name}")
        if _types(old) & {"object"}:
            found += self.compare(others, other_taken, f"{at}.*")
        return found + self.compare(old.get("propertyNames", True), new.get("propertyNames", True), f"{at}: names")

    def _items(self, old, new, at):
        if not _types(old) & {"array"}:
            return []
        was, now = old.get("prefixItems", []), new.get("prefixItems", [])
        rest, rest_taken = old.get("items", True), new.get("items", True)
        found = self.compare(rest, rest_taken, f"{at}[]")
        for place in range(max(len(was), len(now))):
            one = was[place] if place < len(was) else rest
            other = now[place] if place < len(now) else rest_taken
            found += self.compare(one, other, f"{at}[{place}]")
        return found


def _resolved(schema, definitions):
    while "$ref" in schema:
        schema = {**definitions[schema["$ref"].rpartition("/")[2]], **{k: v for k, v in schema.items() if k != "$ref"}}
    return schema


def _values(schema):
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return None if values is None else {(type(value), value) for value in values}


def _types(schema):
    every = {"string", "integer", "number", "boolean", "null", "object", "array"}
    named = schema.get("type", sorted(every))
    types = {named} if isinstance(named, str) else set(named)
    return types | {"integer"} if "number" in types else types
