"""Recipes: YAML files that become a frozen, validated :class:`sterna.config.Recipe`, and back.

Reading is deliberately narrower than YAML 1.1, because a recipe decides a result and must not be guessed at:
``1e-4`` is a number, ``off`` and ``2024-01-01`` are text, a key may stand once, and there are no tags, anchors
or aliases. Every problem is one line: file and line, dotted key, what was got, what is allowed.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sterna.config import Recipe
from sterna.errors import ConfigError

KeyPath = tuple[str | int, ...]

MAX_RECIPE_BYTES = 1 << 20
_SHOWN_CHARACTERS = 60
_TAG = "tag:yaml.org,2002:"

# The scalars of YAML 1.2's core schema, without infinities, octal and hexadecimal numbers: no recipe needs them.
_SCALARS = (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
)


class _Loader(yaml.SafeLoader):
    """Plain YAML nodes, with the scalars above and nothing that refers to something else."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            # A handful of nested aliases can expand to gigabytes.
            raise yaml.composer.ComposerError(
                None, None, "anchors (&) and aliases (*) are not allowed", event.start_mark
            )
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or our loader would take for something else, so every reader sees text."""


_Loader.yaml_implicit_resolvers = {}  # its own, and none of YAML 1.1
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)
    _Dumper.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    flat = not any(isinstance(value, list | dict) for value in values)
    return dumper.represent_sequence(_TAG + "seq", values, flow_style=flat)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # Only double quotes keep control characters and line separators; the other styles fold some of them away.
    return dumper.represent_scalar(_TAG + "str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_text)


@dataclass
class _Source:
    """The raw keys and values of a recipe, and the place in which each of them was written."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply overrides to it.

    Args:
        path: YAML file, at most 1 MiB.
        overrides: ``"a.b=value"`` in the order of application; the value is YAML (a scalar, ``[a, b]``, ``{a: b}``).

    Returns:
        The frozen recipe, with every default filled in.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not allowed; one line.
    """
    source = _Source()
    root = _parse(_read_text(Path(path)), str(path))
    if root is None:
        raise ConfigError(f"{path}: the file is empty, allowed: {_describe(_schema())}")
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}: got {_kind(root)}, allowed: {_describe(_schema())}")
    try:
        source.values = _construct(root, (), str(path), source.places)
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    for override in overrides:
        _apply(override, source)
    try:
        return Recipe.model_validate_json(json.dumps(source.values))
    except ValidationError as error:
        raise ConfigError(_first_problem(error, str(path), source)) from None


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe as YAML, every default spelled out: ``load_recipe`` of that text gives an equal recipe."""
    return yaml.dump(
        recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, indent=2
    )


# ---- Reading ---------------------------------------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RECIPE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the recipe: {error.strerror or error}") from None
    if len(data) > MAX_RECIPE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_RECIPE_BYTES:,} bytes, this is not a recipe")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}), this is not a recipe") from None


def _parse(text: str, place: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{place}:{mark.line + 1}" if mark else place
        problem = error.problem or error.context or "not valid YAML"
        if r"'\t'" in problem:
            problem = "a tab where spaces are needed; indent with spaces"
        elif "another document" in problem:
            problem = "a second YAML document ('---'); a recipe is one"
        raise ConfigError(f"{where}: {_one_line(problem)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{place}: {_one_line(str(error))}") from None
    except RecursionError:
        raise ConfigError(f"{place}: nested too deeply") from None


def _construct(node: yaml.Node, path: KeyPath, file: str, places: dict[KeyPath, str]) -> Any:
    """Turn a node into plain values, and note the line of every key."""
    place = f"{file}:{node.start_mark.line + 1}" if file else ""
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            where = f"{file}:{key_node.start_mark.line + 1}" if file else "--set"
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else _kind(key_node)
                raise ConfigError(f"{where}: key {shown or 'without a name'} in {_dotted(path)} must be text")
            key = key_node.value
            if key in mapping:
                raise ConfigError(f"{where}: {_dotted((*path, key))}: this key stands twice, allowed: once")
            if file:
                places[(*path, key)] = where
            mapping[key] = _construct(value_node, (*path, key), file, places)
        return mapping
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return [_construct(child, (*path, index), file, places) for index, child in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, path, place or "--set")
    raise ConfigError(f"{place or '--set'}: {_dotted(path)}: tag {node.tag.replace(_TAG, '!!')} is not allowed")


def _scalar(node: yaml.ScalarNode, path: KeyPath, place: str) -> str | int | float | bool | None:
    kind, text = node.tag.removeprefix(_TAG), node.value
    if kind == "str":
        return str(text)
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return bool(text.lower() == "true")
    try:
        if kind == "int":
            return int(text)
        if kind == "float" and math.isfinite(number := float(text)):
            return number
    except ValueError:
        pass
    if kind in ("bool", "int", "float"):
        raise ConfigError(f"{place}: {_dotted(path)}: got {_show(text)}, which is not a usable {kind}")
    raise ConfigError(f"{place}: {_dotted(path)}: tag {node.tag.replace(_TAG, '!!')} is not allowed")


def _apply(override: str, source: _Source) -> None:
    """Put one ``a.b=value`` into the raw values; validation later says whether it may stand there."""
    dotted, equals, text = override.partition("=")
    path = tuple(dotted.strip().split("."))
    if not equals or not text.strip() or not all(path):
        raise ConfigError(f"--set: got {_show(override)}, allowed: key=value, for example train.epochs=10 or a.b=null")
    place = "--set"
    try:
        node = _parse(text, "")
    except ConfigError as error:
        raise ConfigError(f"{place}: {_dotted(path)}: value {_show(text)}: {str(error).lstrip(':1 ')}") from None
    value = None if node is None else _construct(node, path, "", {})
    values: dict[str, Any] = source.values
    for depth, key in enumerate(path[:-1], start=1):
        # A section that the file leaves out or switches off with null starts from its defaults.
        if values.get(key) is None:
            values[key] = {}
            source.places[path[:depth]] = place
        if not isinstance(values[key], dict):
            raise ConfigError(f"{place}: {_dotted(path[:depth])} is {_show(values[key])} and holds no keys")
        values = values[key]
    values[path[-1]] = value
    for old in [known for known in source.places if known[: len(path)] == path]:
        del source.places[old]
    source.places[path] = place


# ---- Messages --------------------------------------------------------------------------------------------------------


def _first_problem(error: ValidationError, file: str, source: _Source) -> str:
    problems = error.errors(include_url=False)
    # A misspelt key is the cause where its right spelling is reported as missing, so it goes first.
    problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    path: KeyPath = problem["loc"]
    place = next((source.places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in source.places), file)
    if problem["type"] == "extra_forbidden":
        text = _unknown_key(path)
    elif problem["type"] == "missing":
        text = f"{_dotted(path)}: missing, allowed: {_describe(_schema(path))}"
    elif problem["type"] == "value_error":
        text = str(problem["ctx"]["error"])
        text = f"{_dotted(path)}: {text}" if path else text
    elif schema := _schema(path):
        text = f"{_dotted(path)}: got {_show(problem['input'])}, allowed: {_describe(schema)}"
    else:
        text = f"{_dotted(path)}: {problem['msg']}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return _one_line(f"{place}: {text}{more}")


def _unknown_key(path: KeyPath) -> str:
    key, allowed = str(path[-1]), list(_schema(path[:-1]).get("properties", {}))
    near = difflib.get_close_matches(key, allowed, n=1)
    if not near:
        # The right word in the wrong section is as common as the wrong word.
        near = difflib.get_close_matches(key, _leaves(), n=1, cutoff=0.85)
        near = [_leaves()[near[0]]] if near else []
    hint = f", did you mean {near[0]}?" if near else ","
    return f"{_dotted(path)}: unknown key{hint} allowed: {', '.join(allowed)}"


@cache
def _leaves() -> dict[str, str]:
    """Dotted path of every key of a section, by the key alone; first section wins."""
    leaves: dict[str, str] = {}
    for section in Recipe.model_fields:
        for key in _schema((section,)).get("properties", {}):
            leaves.setdefault(key, f"{section}.{key}")
    return leaves


@cache
def _root_schema() -> dict[str, Any]:
    return Recipe.model_json_schema()


def _schema(path: KeyPath = ()) -> dict[str, Any]:
    """The JSON schema of a dotted key, with references resolved; empty for a key that is not in it."""
    schema = _resolve(_root_schema())
    for key in path:
        options = [_resolve(option) for option in schema.get("anyOf", [schema])]
        schema = {}
        for option in options:
            if isinstance(key, str):
                found = option.get("properties", {}).get(key)
            else:
                fixed = option.get("prefixItems", [])
                found = fixed[key] if key < len(fixed) else option.get("items")
            if isinstance(found, dict):
                schema = _resolve(found)
    return schema


def _resolve(schema: Mapping[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return dict(_root_schema()["$defs"][reference.rsplit("/", 1)[-1]]) if reference else dict(schema)


def _describe(schema: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "$ref" in schema:
        return _describe(_resolve(schema))
    if "anyOf" in schema:
        return " or ".join(_describe(option) for option in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type")
    if kind in ("number", "integer"):
        return ("a number" if kind == "number" else "an integer") + _bounds(schema)
    if kind == "boolean":
        return "true or false"
    if kind == "string":
        return f"text that matches {schema['pattern']}" if "pattern" in schema else "text"
    if kind == "null":
        return "null"
    if kind == "array":
        fixed = schema.get("prefixItems")
        return (
            f"a list of {len(fixed)}: " + ", ".join(map(_describe, fixed))
            if fixed
            else (f"a list, each {_describe(schema.get('items', {}))}")
        )
    if kind == "object":
        keys = ", ".join(schema.get("properties", {}))
        return f"a mapping with the keys {keys}" if keys else "a mapping"
    return "any value"


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
    bounds = [f"{sign} {schema[key]:g}" for key, sign in signs if key in schema]
    return f" {' and '.join(bounds)}" if bounds else ""


def _dotted(path: KeyPath) -> str:
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            shown = key if re.fullmatch(r"[\w-]+", key) else _show(key)
            text += f".{shown}" if text else shown
    return text or "the recipe"


def _show(value: object) -> str:
    """A value as it may stand in a one-line message: JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "a mapping" if isinstance(node, yaml.MappingNode) else _show(node.value)


def _one_line(text: str) -> str:
    return " ".join(text.split())
