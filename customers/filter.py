"""``$filter``: translated from OData to Table Storage's language, with its values as parameters.

The grammar knows more of OData than is supported, so that an error can name what is not.

Sources: OData 4.01 URL Conventions, 5.1.1; "Querying tables and entities" for what Table Storage takes: comparisons of
a column with a constant, ``and``, ``or`` and ``not``, at most 15 comparisons in one query.
"""

from datetime import UTC, datetime
from functools import cache
from typing import Final

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput, UnexpectedToken

from customers.email_index import INDEXED, Address
from customers.errors import BadRequest, Detail
from customers.lists import Condition, TableFilter
from customers.row import STRING_COLUMNS, TIMESTAMP_COLUMNS
from customers.surface import without_cast

MAX_LENGTH = 2_000
MAX_DEPTH = 20
MAX_COMPARISONS = 13
"""Two less than Table Storage takes, because of the keys that limit it to customers. ``startswith`` counts as two."""

_GRAMMAR: Final = r"""
?start: disjunction
?disjunction: conjunction (_OR conjunction)*
?conjunction: comparison (_AND comparison)*
?comparison: sum
    | sum OPERATOR sum
    | sum IN "(" [disjunction ("," disjunction)*] ")"  -> unsupported
    | sum IN (JSON | PATH)                             -> unsupported
    | sum HAS sum                                      -> unsupported
?sum: unary
    | sum ARITHMETIC unary                             -> unsupported
?unary: primary
    | _NOT unary                                       -> negation
    | MINUS unary                                      -> unsupported
?primary: STRING | LITERAL | CONSTANT | TYPED | JSON | PATH
    | PATH "(" [_argument ("," _argument)*] ")"        -> call
    | "(" disjunction ")"                              -> group
_argument: disjunction [(":" | "=") disjunction]

_OR.2: /or\b/i
_AND.2: /and\b/i
_NOT.2: /not\b/i
OPERATOR.2: /(eq|ne|gt|ge|lt|le)\b/i
IN.2: /in\b/i
HAS.2: /has\b/i
ARITHMETIC.2: /(add|sub|mul|divby|div|mod)\b/i
MINUS: "-"
STRING: /'([^']|'')*'/
LITERAL: /[0-9][\w:.+-]*/
CONSTANT.2: /(null|true|false|inf|nan)\b/i
TYPED.3: /[A-Za-z][\w.]*'([^']|'')*'/
JSON: /\[[^\]]*\]|\{[^}]*\}/
PATH: /[@$A-Za-z_][\w.]*(\/[@$\w.]+)*/
%ignore /[ \t]+/
"""

# The tokens that name a construct of OData that is not supported.
_OPERATORS: Final = frozenset({"ARITHMETIC", "HAS", "IN", "MINUS"})

# Each with its mirror image, for a literal on the left.
_MIRRORED: Final = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}

# Table Storage has no earlier timestamp, and no customer is older.
_EARLIEST: Final = datetime(1601, 1, 1, tzinfo=UTC)

type _Node = Tree[Token] | Token


@cache
def _parser() -> Lark:
    # LALR takes time in proportion to the length, and does not recurse.
    return Lark(_GRAMMAR, parser="lalr", maybe_placeholders=False)


def translate(text: str) -> Condition:
    """Translate the value of ``$filter``. Raises BadRequest, which says what is not supported and what is."""
    if len(text) > MAX_LENGTH:
        raise _invalid(f"must have at most {MAX_LENGTH} characters")
    try:
        tree = _parser().parse(text.strip())
    except UnexpectedInput as error:
        at_the_end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
        problem = "ends too soon" if at_the_end else f"cannot be read from character {error.column} on"
        raise _invalid(
            "must be a filter such as emailAddress eq 'o''brien@x.com', with each quote in a string doubled; "
            f"this one {problem}"
        ) from None
    translation = _Translation()
    where = translation.conjunction(tree)
    return Condition(tuple(translation.addresses), TableFilter(where, translation.parameters) if where else None)


def _invalid(message: str) -> BadRequest:
    return BadRequest.because([Detail("unsupportedFilter", "$filter", message)])


def _unsupported(construct: str) -> BadRequest:
    return _invalid(
        f"{construct} is not supported; use comparisons of a property with a literal by eq, ne, gt, ge, lt or le, "
        "startswith(property,'text'), and, or, not (…) and parentheses"
    )


def _misplaced_tolower() -> BadRequest:
    return _invalid(f"tolower must be used as in tolower({INDEXED}) eq 'x@y.com', alone or joined to the rest by and")


class _Translation:
    """One walk over the tree of a filter. No value is in the text: each is a parameter, ``@p0`` and so on."""

    def __init__(self) -> None:
        self.parameters: dict[str, str | datetime] = {}
        self.addresses: list[Address] = []

    def conjunction(self, node: _Node, depth: int = 1) -> str:
        """A condition that must be met, without its parts that are conditions on the address; empty if all are."""
        match node:
            case Tree("group", [inner]) if depth < MAX_DEPTH:
                return self.conjunction(inner, depth + 1)
            case Tree("conjunction", parts) if depth < MAX_DEPTH:
                translated = [self.conjunction(part, depth + 1) for part in parts]
                rest = [text for text in translated if text]
                return f"( {' and '.join(rest)} )" if len(rest) > 1 else "".join(rest)
            case Tree("comparison", [left, Token() as operator, right]) if operator.lower() == "eq":
                for one, other in ((left, right), (right, left)):
                    if (exact := _is_address(one)) is not None and isinstance(other, Token) and other.type == "STRING":
                        self._count_comparison()
                        self.addresses.append(Address(_string(other), exact))
                        return ""
        return self.condition(node, depth)

    def condition(self, node: _Node, depth: int = 1) -> str:
        if depth > MAX_DEPTH:
            raise _invalid(f"must be at most {MAX_DEPTH} levels deep")
        match node:
            case Tree("group", [inner]):
                return self.condition(inner, depth + 1)
            case Tree("disjunction" | "conjunction" as data, parts):
                word = " or " if data == "disjunction" else " and "
                return f"( {word.join(self.condition(part, depth + 1) for part in parts)} )"
            case Tree("negation", [operand]):
                return f"( not {self.condition(operand, depth + 1)} )"
            case Tree("comparison", [left, Token() as operator, right]):
                return self._comparison(left, operator.lower(), right)
            case Tree("call", [Token() as name, *arguments]):
                return self._call(name, arguments)
        raise _unsupported(_describe(node))

    def _comparison(self, one: _Node, operator: str, other: _Node) -> str:
        left, right = _operand(one), _operand(other)
        if left.type != "PATH":
            left, operator, right = right, _MIRRORED[operator], left
        if left.type != "PATH":
            raise _unsupported("A comparison of two literals")
        name = _property(left)
        if name in STRING_COLUMNS:
            if right.type != "STRING":
                raise _invalid(f"{name} must be compared with a string in single quotes")
            return f"( {STRING_COLUMNS[name]} {operator} {self._parameter(_string(right))} )"
        if right.type != "LITERAL":
            raise _invalid(f"{name} must be compared with a timestamp such as 2026-11-23T12:00:00Z, without quotes")
        return f"( {TIMESTAMP_COLUMNS[name]} {operator} {self._parameter(_timestamp(right))} )"

    def _call(self, function: Token, arguments: list[_Node]) -> str:
        if function.lower() == "tolower":
            raise _misplaced_tolower()
        if function.lower() != "startswith":
            raise _unsupported(f"The function {function[:64]}")
        match arguments:
            case [Token("PATH") as path, Token("STRING") as literal]:
                name, prefix = _property(path), _string(literal)
            case _:
                raise _invalid("startswith must be given a property and a string, as in startswith(displayName,'A')")
        if name not in STRING_COLUMNS:
            raise _invalid(f"startswith must be given one of {', '.join(STRING_COLUMNS)}")
        column = STRING_COLUMNS[name]
        least = f"{column} ge {self._parameter(prefix)}"
        end = _end_of_prefix(prefix)
        return f"( {least} )" if end is None else f"( {least} and {column} lt {self._parameter(end)} )"

    def _count_comparison(self) -> None:
        if len(self.parameters) + len(self.addresses) == MAX_COMPARISONS:
            raise _invalid(f"must have at most {MAX_COMPARISONS} comparisons; startswith counts as two")

    def _parameter(self, value: str | datetime) -> str:
        self._count_comparison()
        name = f"p{len(self.parameters)}"
        self.parameters[name] = value
        return f"@{name}"


def _describe(node: _Node) -> str:
    """What a node is, for an error that says that it is not supported."""
    match node:
        case Tree("unsupported", parts):
            operator = next(part for part in parts if isinstance(part, Token) and part.type in _OPERATORS)
            return f"The operator {operator}"
        case Tree("call", [Token() as function, *_]):
            return f"The function {function[:64]}"
        case Tree(data):
            return "not without parentheses" if data == "negation" else "A comparison of conditions"
        case Token("TYPED" | "JSON", str(literal)):
            return f"The literal {literal[:64]}"
        case Token("PATH", str(alias)) if alias.startswith("@"):
            return f"The parameter alias {alias[:64]}"
        case Token(kind):
            return f"A {'property' if kind == 'PATH' else 'literal'} without a comparison"


def _is_address(node: _Node) -> bool | None:
    """Whether a side of a comparison is the address exactly (True), or its lower case (False); None for neither."""
    match node:
        case Token("PATH") if without_cast(node) == INDEXED:
            return True
        case Tree("call", [Token() as function, Token("PATH") as path]):
            return False if function.lower() == "tolower" and without_cast(path) == INDEXED else None
    return None


def _operand(node: _Node) -> Token:
    match node:
        case Tree("call", [Token() as function, *_]) if function.lower() == "tolower":
            raise _misplaced_tolower()
    if isinstance(node, Tree) or node.startswith("@") or node.type in ("TYPED", "JSON"):
        raise _unsupported(_describe(node))
    return node


def _property(path: Token) -> str:
    name = without_cast(path)
    if "/" in name:
        raise _unsupported(f"The path {path[:64]}")
    if name not in STRING_COLUMNS and name not in TIMESTAMP_COLUMNS:
        names = ", ".join((*STRING_COLUMNS, *TIMESTAMP_COLUMNS))
        raise _invalid(f"There is no property {name[:128]} to filter by; choose from {names}")
    return name


def _string(literal: Token) -> str:
    return literal[1:-1].replace("''", "'")


def _timestamp(text: str) -> datetime:
    """Read a DateTimeOffset literal (OData 4.01 ABNF, dateTimeOffsetValue) in UTC."""
    whole, dot, rest = text.upper().partition(".")
    digits = rest.rstrip("Z").partition("+")[0].partition("-")[0]
    finer_than_microseconds = digits[6:].strip("0")
    try:
        timestamp = datetime.fromisoformat(f"{whole}{dot}{digits[:6]}{rest[len(digits) :]}" if dot else whole)
        if timestamp.tzinfo is not None and not finer_than_microseconds:
            return max(timestamp.astimezone(UTC), _EARLIEST)
    except (ValueError, OverflowError):
        pass
    raise _invalid(f"{text} must be a timestamp such as 2026-11-23T12:00:00Z, with an offset and at most six decimals")


def _end_of_prefix(prefix: str) -> str | None:
    """Return the first string that sorts after all those with ``prefix``, or None if there is none.

    Table Storage compares UTF-16 code units, in which characters beyond U+FFFF sort between U+D7FF and U+E000.
    """
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index])
        if code != 0xFFFF:
            after = {0xD7FF: 0x10000, 0x10FFFF: 0xE000}.get(code, code + 1)
            return prefix[:index] + chr(after)
    return None
