"""``$filter``, from OData's language to Table Storage's, values apart from text all the way.

Sources: OData 4.01 URL Conventions, 5.1.1; "Querying tables and entities" for what Table Storage takes: comparisons of
a column with a constant, ``and``, ``or`` and ``not``, at most 15 comparisons in one query.
"""

from datetime import UTC, datetime
from typing import Any, Final

from odata_query import ast
from odata_query.exceptions import ODataException
from odata_query.grammar import ODataLexer, ODataParser

from customers.errors import BadRequest, Detail
from customers.table import TableFilter

MAX_LENGTH = 2_000
MAX_DEPTH = 20
MAX_COMPARISONS = 14
"""One less than Table Storage takes: the business is a comparison, too. ``startswith`` counts as two."""

_TEXT: Final = {"id": "RowKey", "displayName": "displayName", "emailAddress": "emailAddress"}
_TIME: Final = {"createdDateTime": "createdDateTime", "lastUpdatedDateTime": "lastUpdatedDateTime"}
_OPERATORS: Final[dict[type[ast._Comparator], tuple[str, str]]] = {
    # Each with its mirror image, for a constant on the left.
    ast.Eq: ("eq", "eq"),
    ast.NotEq: ("ne", "ne"),
    ast.Lt: ("lt", "gt"),
    ast.LtE: ("le", "ge"),
    ast.Gt: ("gt", "lt"),
    ast.GtE: ("ge", "le"),
}
# Table Storage knows no earlier moment, and no customer is older.
_LEAST_TIME: Final = datetime(1601, 1, 1, tzinfo=UTC)


class _Lexer(ODataLexer):
    """The library's, which also takes ``not(…)`` without a space, as Graph does."""

    tokens = ODataLexer.tokens

    def NOT(self, token: Any) -> Any:  # noqa: N802 - the token's name
        token.value = ast.Not()
        return token

    NOT.pattern = r"not(?:\s+|(?=\())"  # type: ignore[attr-defined]  # how the lexer knows its rules


def translate(text: str) -> TableFilter:
    """Translate the value of ``$filter``. Raises BadRequest, which says what is not supported and what is."""
    if len(text) > MAX_LENGTH:
        raise _refusal(f"A filter has at most {MAX_LENGTH} characters")
    try:
        tree = ODataParser().parse(_Lexer().tokenize(text.strip()))
    except ODataException:
        raise _refusal(
            "This is no filter such as emailAddress eq 'o''brien@x.com'; mind the quotes and spaces"
        ) from None
    translation = _Translation()
    return TableFilter(translation.condition(tree), translation.parameters)


def _refusal(message: str) -> BadRequest:
    return BadRequest.because([Detail("unsupportedFilter", "$filter", message)])


class _Translation:
    """One walk over the tree of a filter. Single spaces set words apart, for the SDK finds its parameters by them."""

    def __init__(self) -> None:
        self.parameters: dict[str, str | datetime] = {}

    def condition(self, node: ast._Node, depth: int = 1) -> str:
        if depth > MAX_DEPTH:
            raise _refusal(f"A filter is at most {MAX_DEPTH} levels deep")
        match node:
            case ast.BoolOp(op, left, right):
                word = "and" if isinstance(op, ast.And) else "or"
                return f"( {self.condition(left, depth + 1)} {word} {self.condition(right, depth + 1)} )"
            case ast.UnaryOp(ast.Not(), operand):
                return f"( not {self.condition(operand, depth + 1)} )"
            case ast.Compare(comparator, ast.Identifier(name, ()), constant) if type(comparator) in _OPERATORS:
                return self._comparison(name, _OPERATORS[type(comparator)][0], constant)
            case ast.Compare(comparator, constant, ast.Identifier(name, ())) if type(comparator) in _OPERATORS:
                return self._comparison(name, _OPERATORS[type(comparator)][1], constant)
            case ast.Call(ast.Identifier("startswith", ()), [ast.Identifier(name, ()), ast.String(prefix)]):
                return self._startswith(name, prefix)
        raise _refusal(
            "Supported are comparisons of a property with a constant by eq, ne, gt, ge, lt or le, "
            "startswith(property,'text'), and, or, not (…) and parentheses"
        )

    def _comparison(self, name: str, operator: str, constant: ast._Node) -> str:
        match constant:
            case ast.String(text) if name in _TEXT:
                return f"( {_TEXT[name]} {operator} {self._parameter(text)} )"
            case ast.DateTime(text) if name in _TIME:
                return f"( {_TIME[name]} {operator} {self._parameter(_moment(text))} )"
        if name in _TEXT:
            raise _refusal(f"{name} is compared with a text in single quotes")
        if name in _TIME:
            raise _refusal(f"{name} is compared with a moment such as 2026-11-23T12:00:00Z, without quotes")
        raise _unknown(name)

    def _startswith(self, name: str, prefix: str) -> str:
        if name not in _TEXT:
            raise _refusal(f"startswith takes {', '.join(_TEXT)}") if name in _TIME else _unknown(name)
        least = f"{_TEXT[name]} ge {self._parameter(prefix)}"
        end = _end_of_prefix(prefix)
        if end is None:
            return f"( {least} )"
        return f"( {least} and {_TEXT[name]} lt {self._parameter(end)} )"

    def _parameter(self, value: str | datetime) -> str:
        if len(self.parameters) == MAX_COMPARISONS:
            raise _refusal(f"A filter has at most {MAX_COMPARISONS} comparisons; startswith counts as two")
        name = f"p{len(self.parameters)}"
        self.parameters[name] = value
        return f"@{name}"


def _unknown(name: str) -> BadRequest:
    return _refusal(f"There is no property {name[:128]} to filter by; there are {', '.join((*_TEXT, *_TIME))}")


def _moment(text: str) -> datetime:
    """Read a DateTimeOffset literal (OData 4.01 ABNF, dateTimeOffsetValue) in UTC."""
    whole, dot, rest = text.upper().partition(".")
    digits = rest.rstrip("Z").partition("+")[0].partition("-")[0]
    finer_than_microseconds = digits[6:].strip("0")
    try:
        moment = datetime.fromisoformat(f"{whole}{dot}{digits[:6]}{rest[len(digits) :]}" if dot else whole)
        if moment.tzinfo is not None and not finer_than_microseconds:
            return max(moment.astimezone(UTC), _LEAST_TIME)
    except (ValueError, OverflowError):
        pass
    raise _refusal(f"{text} is not a moment such as 2026-11-23T12:00:00Z, with its offset, in microseconds at most")


def _end_of_prefix(prefix: str) -> str | None:
    """Return the least text after all that begin with ``prefix``, or None if there is none.

    Table Storage compares UTF-16 units, where the characters beyond U+FFFF stand between U+D7FF and U+E000.
    """
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index])
        if code != 0xFFFF:
            after = {0xD7FF: 0x10000, 0x10FFFF: 0xE000}.get(code, code + 1)
            return prefix[:index] + chr(after)
    return None
