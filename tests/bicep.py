"""Reads Bicep, as far as the templates in infra/ use it, and finds what its compiler would refuse.

Syntax and symbols need nothing but the parser. What a resource may hold is said by the types that are passed in.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import tree_sitter_bicep
from tree_sitter import Language, Node, Parser

_PARSER = Parser(Language(tree_sitter_bicep.language()))
FUNCTIONS = frozenset(
    {
        *("allowed", "description", "maxLength", "maxValue", "metadata", "minLength", "minValue"),
        *("empty", "environment", "guid", "items", "loadTextContent", "string", "subscription"),
        *("subscriptionResourceId", "tenant", "union", "uniqueString"),
    }
)
"""The functions and decorators that the templates may use: all are Bicep's own."""
_DECLARATIONS = {
    "parameter_declaration": "param",
    "variable_declaration": "var",
    "resource_declaration": "resource",
    "module_declaration": "module",
    "output_declaration": "output",
}

type Value = str | int | bool | list[Value] | dict[str, Value] | Expression | None


class Expression(NamedTuple):
    """A value that only a deployment knows, and the values that it may have where it is a choice between some."""

    text: str
    choices: tuple[Value, ...] = ()


class Declaration(NamedTuple):
    """A declared symbol, and for a resource or module the string that says what of."""

    kind: str
    name: str
    node: Node
    of: str = ""

    @property
    def value(self) -> Value:
        """What it is declared to be; None where that is left open, as for a parameter without a default."""
        return _value(self.node.named_children[-1])

    @property
    def has_default(self) -> bool:
        """Whether it is a parameter that may be left off."""
        return any(not child.is_named and child.type == "=" for child in self.node.children)

    @property
    def body(self) -> dict[str, Value]:
        """The object of a resource or module."""
        value = self.value
        assert isinstance(value, dict), f"{self.name} has no body"
        return value

    @property
    def is_existing(self) -> bool:
        """Whether it only refers to a resource."""
        return any(child.type == "existing" for child in self.node.children)


class Template:
    """A Bicep file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root = _PARSER.parse(path.read_bytes()).root_node
        self.declarations = [_declaration(node) for node in self._root.children if node.type in _DECLARATIONS]

    def of_kind(self, kind: str) -> dict[str, Declaration]:
        """The declarations of a kind, by name."""
        return {declaration.name: declaration for declaration in self.declarations if declaration.kind == kind}

    def resources(self) -> list[Declaration]:
        """The resources that it makes."""
        return [resource for resource in self.of_kind("resource").values() if not resource.is_existing]

    def problems(self) -> list[str]:
        """What is wrong with the syntax, the symbols, and what modules are given and asked for."""
        return [f"{self.path.name}:{problem}" for problem in (*self._syntax(), *self._symbols(), *self._modules())]

    def _syntax(self) -> Iterator[str]:
        for node in _walk(self._root):
            if node.type == "ERROR" or node.is_missing:
                yield f"{node.start_point.row + 1}: syntax"

    def _symbols(self) -> Iterator[str]:
        known = {declaration.name for declaration in self.declarations if declaration.kind != "output"}
        used: set[str] = set()
        for node in _walk(self._root):
            if node.type != "identifier" or _names_something(node):
                continue
            name = _text(node)
            parent = node.parent
            if (
                parent is not None
                and parent.type == "call_expression"
                and parent.child_by_field_name("function") == node
            ):
                if name not in FUNCTIONS:
                    yield f"{node.start_point.row + 1}: no function {name}"
            elif name in known:
                used.add(name)
            elif name not in _loop_variables(node):
                yield f"{node.start_point.row + 1}: no symbol {name}"
        for declaration in self.declarations:
            if declaration.kind in ("param", "var") and declaration.name not in used:
                yield f"{declaration.node.start_point.row + 1}: {declaration.name} is not used"

    def _modules(self) -> Iterator[str]:
        modules = self.of_kind("module")
        templates = {}
        for name, module in modules.items():
            line = module.node.start_point.row + 1
            path = self.path.parent / module.of
            if not path.exists():
                yield f"{line}: no file {module.of}"
                continue
            templates[name] = template = Template(path)
            params = template.of_kind("param")
            given = module.body["params"]
            assert isinstance(given, dict)
            for param in given.keys() - params.keys():
                yield f"{line}: {module.of} has no parameter {param}"
            for param, declaration in params.items():
                if param not in given and not declaration.has_default:
                    yield f"{line}: {module.of} needs {param}"
        for node in _walk(self._root):
            if node.type == "member_expression":
                owner, _, output = _text(node).partition(".outputs.")
                template_of = templates.get(owner.removesuffix("!"))
                if output and template_of and output not in template_of.of_kind("output"):
                    yield f"{node.start_point.row + 1}: {template_of.path.name} has no output {output}"


def _declaration(node: Node) -> Declaration:
    name = next(child for child in node.children if child.type in ("identifier", "compatible_identifier"))
    strings = [child for child in node.children if child.type == "string"]
    kind = _DECLARATIONS[node.type]
    of = _text(strings[0]).strip("'") if kind in ("resource", "module") else ""
    return Declaration(kind, _text(name), node, of)


def _text(node: Node) -> str:
    return (node.text or b"").decode()


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


def _names_something(node: Node) -> bool:
    """Whether an identifier is the name of a declaration, a property or a loop's variable, rather than a use of one."""
    parent = node.parent
    if parent is None:
        return False
    if parent.type in _DECLARATIONS:
        return next(child for child in parent.children if child.type == "identifier") == node
    if parent.type == "object_property":
        return parent.children[0] == node
    return parent.type == "for_statement" and parent.child_by_field_name("initializer") == node


def _is_called(node: Node) -> bool:
    return node.parent is not None and node.parent.child_by_field_name("function") == node


def _loop_variables(node: Node) -> set[str]:
    names = set()
    ancestor: Node | None = node
    while ancestor is not None:
        if ancestor.type == "for_statement":
            if initializer := ancestor.child_by_field_name("initializer"):
                names.add(_text(initializer))
            for child in ancestor.children:
                if child.type == "for_loop_parameters":
                    names |= {_text(variable) for variable in child.named_children}
        ancestor = ancestor.parent
    return names


def _value(node: Node) -> Value:  # noqa: PLR0911
    match node.type:
        case "object":
            properties = (child for child in node.named_children if child.type == "object_property")
            return {_text(child.children[0]).strip("'"): _value(child.named_children[-1]) for child in properties}
        case "array":
            return [_value(child) for child in node.named_children if child.type != "comment"]
        case "for_statement":
            body = node.child_by_field_name("body")
            assert body is not None
            value = _value(body)
            return value if _is_declared(node) else [value]
        case "if_statement":
            return _value(node.named_children[-1])
        case "string" if all(child.type != "interpolation" for child in node.named_children):
            return _text(node).strip("'")
        case "number":
            return int(_text(node))
        case "boolean":
            return _text(node) == "true"
        case "null" | "type":
            return None
        case "ternary_expression":
            branches = (node.child_by_field_name("consequence"), node.child_by_field_name("alternative"))
            return Expression(_text(node), tuple(_value(branch) for branch in branches if branch is not None))
        case _:
            return Expression(_text(node))


def _is_declared(node: Node) -> bool:
    return node.parent is not None and node.parent.type in ("resource_declaration", "module_declaration")


class Property(NamedTuple):
    """A property that a type of Azure's has: the name of its own type, or its values with bars between."""

    type: str
    required: bool = False
    read_only: bool = False


type Types = Mapping[str, Mapping[str, Property]]
"""The properties of object types, by the name of the type; a resource's with its API version."""


def check_resource(resource: Declaration, types: Types) -> list[str]:
    """Find what is wrong with a resource, against the types that its type is among."""
    if resource.of not in types:
        known = ", ".join(name for name in types if "@" in name)
        return [f"{resource.name}: no type {resource.of}, but {known}"]
    body = {name: value for name, value in resource.body.items() if name not in ("parent", "scope", "dependsOn")}
    return [f"{resource.name}{problem}" for problem in _check(body, resource.of, types)]


def _check(value: Value, type_name: str, types: Types) -> Iterator[str]:
    if isinstance(value, Expression):
        for choice in value.choices:
            yield from _check(choice, type_name, types)
    elif value is None:
        return
    elif type_name in types:
        yield from _check_object(value, types[type_name], types)
    elif isinstance(value, list) and type_name.endswith("[]"):
        for item in value:
            yield from _check(item, type_name.removesuffix("[]"), types)
    elif not _fits(value, type_name):
        yield f": {value!r} is not {type_name}"


def _check_object(value: Value, properties: Mapping[str, Property], types: Types) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f": {value!r} is no object"
        return
    anything = properties.get("*")
    for name, item in value.items():
        known = properties.get(name, anything)
        if known is None:
            yield f".{name}: there is no such property"
        elif known.read_only:
            yield f".{name}: read-only"
        else:
            for problem in _check(item, known.type, types):
                yield f".{name}{problem}"
    for name, known in properties.items():
        if known.required and not known.read_only and name not in value:
            yield f".{name}: missing"


def _fits(value: Value, type_name: str) -> bool:
    # An open set of values ("A | B | string") is taken as closed: a value that Azure doesn't list is a mistake here.
    match type_name:
        case "any":
            return True
        case "string":
            return isinstance(value, str)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "bool":
            return isinstance(value, bool)
        case _:
            return not isinstance(value, (list, dict)) and str(value) in type_name.split(" | ")
