"""Columns and customers: which property of a customer each column of a CSV file gives, and the columns of an export.

A column is named by the property that it gives, without regard to case: ``displayName``, ``phones[0].number``,
``phones[mobile].number``, ``addresses[home].street``. Columns with other names are mapped, by ``--map`` or by the
layout of a program that is known here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, get_args, get_origin

from customers.cli.command import UsageError
from customers.model import PROPERTIES, CustomerProperties

LEFT_OUT = ""
"""The target of a column that is not imported."""

OTHERS = "*"
"""Stands for all columns that nothing else names."""


def _item_types() -> Iterator[tuple[str, dict[str, Any]]]:
    """The properties that are arrays, and the properties of their items with their types."""
    for field in CustomerProperties.model_fields.values():
        if get_origin(field.annotation) is tuple:
            items = get_args(field.annotation)[0].model_fields.values()
            yield str(field.alias), {str(item.alias): item.annotation for item in items}


_ARRAYS: Final = {name: list(items) for name, items in _item_types()}
_KINDS: Final = {
    name: [kind for part in get_args(items.get("type")) for kind in get_args(part)] for name, items in _item_types()
}
"""The values of ``type`` of an item of each array."""
_TEXTS: Final = [
    "id",
    *(str(field.alias) for field in CustomerProperties.model_fields.values() if field.alias not in _ARRAYS),
]
_SET_BY_SERVICE: Final = {name.lower() for name in PROPERTIES if name not in _TEXTS and name not in _ARRAYS}

# Names and lines of an address may be spread over several columns.
_JOINED_BY: Final = {"displayName": " ", "street": ", "}
_SHORT: Final = {"phone": "phones[0].number"}
_TARGET = re.compile(r"(\w+)(?:\[(?:(\d{1,3})|(\w+)(?: \d)?)\]\.(\w+))?")

# Excel takes such a cell for a formula, unless an apostrophe is before it; in Japan, also one that begins with a wide
# form of these characters: "CSV Injection", OWASP.
_BEGINNING = r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
_FORMULA = re.compile(rf"'*{_BEGINNING}")
_MARKED = re.compile(rf"'+{_BEGINNING}")


class Target(NamedTuple):
    """What a column gives: a property, or one of an item of an array.

    ``label`` is which item: a number, or a type with perhaps a number. ``otherwise``: only if nothing else gives it.
    """

    name: str
    label: str = ""
    item: str = ""
    otherwise: bool = False

    @property
    def place(self) -> tuple[str, str, str]:
        """The target without its condition."""
        return self[:3]

    @property
    def joined_by(self) -> str | None:
        """What stands between the values of several columns; None if only one column may give this."""
        return _JOINED_BY.get(self.item or self.name)

    @property
    def kind(self) -> str | None:
        """The type of an item that is labelled with one."""
        return None if not self.label or self.label.isdecimal() else self.label.partition(" ")[0]

    def __str__(self) -> str:
        """The target as a person writes it."""
        return f"{self.name}[{self.label}].{self.item}" if self.item else self.name


def read_target(text: str) -> Target | None:
    """Read the name of a target, without regard to case; None if there is no such property."""
    name, otherwise = (text[:-1], True) if text.endswith("?") else (text, False)
    name = _SHORT.get(name.lower(), name)
    found = _TARGET.fullmatch(name)
    if not found:
        return None
    name, number, kind, item = (part or "" for part in found.groups())
    if not item:
        name = _spelled(name, _TEXTS)
        return Target(name, otherwise=otherwise) if name else None
    name = _spelled(name, _ARRAYS)
    item = _spelled(item, _ARRAYS.get(name, ()))
    if not name or not item:
        return None
    if number:
        return Target(name, str(int(number)), item, otherwise)
    kind = _spelled(kind, _KINDS[name])
    label = found.group(0).partition("[")[2].partition("]")[0]
    return Target(name, kind + label[len(kind) :], item, otherwise) if kind else None


def _spelled(name: str, known: Iterable[str]) -> str:
    return next((one for one in known if one.lower() == name.lower()), "")


class Layout(NamedTuple):
    """The columns that another program exports, in lower case; the others are left out.

    A file has the layout if it has all the columns of one of ``marks``.
    """

    program: str
    marks: tuple[frozenset[str], ...]
    targets: Mapping[str, str]


def _addresses(prefix: str, label: str) -> dict[str, str]:
    place = f"addresses[{label}]"
    parts = {"city": "city", "state": "state", "postal code": "postalCode"}
    countries = {f"{prefix} {name}": f"{place}.countryOrRegion" for name in ("country/region", "country")}
    streets = {f"{prefix} {name}": f"{place}.street" for name in ("street", "street 2", "street 3")}
    box = {f"{prefix} address po box": f"{place}.postOfficeBox"}
    return {**streets, **{f"{prefix} {name}": f"{place}.{part}" for name, part in parts.items()}, **countries, **box}


# Sources: "Outlook Contact Fields" (spstechnical.com/outlook_contacts_schema.htm), and the header that Outlook writes.
_OUTLOOK = Layout(
    "Outlook",
    (frozenset({"e-mail address"}),),
    {
        "first name": "displayName",
        "middle name": "displayName",
        "last name": "displayName",
        "suffix": "displayName",
        "company": "displayName?",
        "e-mail display name": "displayName?",
        "e-mail address": "emailAddress",
        "e-mail 2 address": "emailAddress?",
        "e-mail 3 address": "emailAddress?",
        **_addresses("business", "business"),
        **_addresses("home", "home"),
        **_addresses("other", "other"),
        "primary phone": "phones[other 1].number",
        "business phone": "phones[business].number",
        "business phone 2": "phones[business 2].number",
        "company main phone": "phones[business 3].number",
        "home phone": "phones[home].number",
        "home phone 2": "phones[home 2].number",
        "mobile phone": "phones[mobile].number",
        "car phone": "phones[mobile 2].number",
        "other phone": "phones[other].number",
        "callback": "phones[other 2].number",
        "assistant's phone": "phones[assistant].number",
        "business fax": "phones[businessFax].number",
        "home fax": "phones[homeFax].number",
        "other fax": "phones[otherFax].number",
        "pager": "phones[pager].number",
        "radio phone": "phones[radio].number",
    },
)

# Sources: "Import customers online", Square Support (squareup.com/help/us/en/article/6632), and programs that read
# Square's export by its column names, in the United States and (Surname) elsewhere.
_SQUARE = Layout(
    "Square",
    (frozenset({"square customer id"}), frozenset({"email address", "first name"})),
    {
        "square customer id": "id",
        "first name": "displayName",
        "last name": "displayName",
        "surname": "displayName",
        "nickname": "displayName?",
        "company name": "displayName?",
        "email address": "emailAddress",
        "phone number": "phones[0].number",
        "street address 1": "addresses[0].street",
        "street address 2": "addresses[0].street",
        "city": "addresses[0].city",
        "state": "addresses[0].state",
        "postal code": "addresses[0].postalCode",
    },
)

LAYOUTS: Final = (_OUTLOOK, _SQUARE)


class Columns:
    """The columns of a file, by its header and what ``--map`` says. Raises UsageError, which names all that is wrong.

    ``left_out`` are the names of columns that the layout of a known program has and a customer has not.
    """

    def __init__(self, header: Sequence[str], mapping: Mapping[str, str] = MappingProxyType({})) -> None:
        self.names = [name.strip() for name in header]
        self.left_out: list[str] = []
        self._problems: list[str] = []
        mapping = {name.strip().lower(): target.strip() for name, target in mapping.items()}
        lower = [name.lower() for name in self.names]
        layout = next((one for one in LAYOUTS if any(mark.issubset(lower) for mark in one.marks)), None)
        self.layout = layout.program if layout else None
        self._targets = [self._target(name, mapping, layout) for name in self.names]
        missing = [name for name in mapping if name not in lower and name != OTHERS]
        if missing:
            self._problems.append(f"There is no column {_list(missing)}, which --map names.")
        self._check_targets()
        if self._problems:
            found = _list(name for name in self.names if name)
            raise UsageError("\n".join([*self._problems, f"The columns of the file: {found}."]))
        self._labels = self._order_of_items()
        self._first = [(at, target) for at, target in enumerate(self._targets) if target and not target.otherwise]
        self._otherwise = [(at, target) for at, target in enumerate(self._targets) if target and target.otherwise]

    def _target(self, name: str, mapping: Mapping[str, str], layout: Layout | None) -> Target | None:
        lower = name.lower()
        if lower in mapping:
            return self._mapped(name, mapping[lower])
        if target := read_target(name):
            return target
        if not name or name.startswith("@") or lower in _SET_BY_SERVICE:
            return None
        if layout and lower in layout.targets:
            return read_target(layout.targets[lower])
        if OTHERS in mapping:
            return self._mapped(name, mapping[OTHERS])
        if layout:
            self.left_out.append(name)
        else:
            self._problems.append(
                f"Column '{name}' is not a property of a customer. Map it with --map '{name}=displayName', "
                f"leave it out with --map '{name}=', or all such columns with --map '*='."
            )
        return None

    def _mapped(self, name: str, text: str) -> Target | None:
        if text == LEFT_OUT:
            return None
        target = read_target(text)
        if target is None:
            self._problems.append(
                f"--map '{name}={text}': there is no such property. There are: {', '.join(_TEXTS)}, phone, "
                + ", ".join(f"{array}[0].{item}" for array, items in _ARRAYS.items() for item in items)
                + ". Instead of the number, a type: phones[mobile].number."
            )
        return target

    def _check_targets(self) -> None:
        given: dict[tuple[str, str, str], list[str]] = {}
        for name, target in zip(self.names, self._targets, strict=True):
            if target and not target.otherwise:
                given.setdefault(target.place, []).append(name)
        for place, names in given.items():
            if len(names) > 1 and Target(*place).joined_by is None:
                self._problems.append(f"Columns {_list(names)} all give {Target(*place)}. Leave all but one out.")
        there = {target.name for target in self._targets if target}
        self._problems += [
            f"No column gives {name}. Name it with --map 'COLUMN={name}'."
            for name in ("displayName", "emailAddress")
            if name not in there and not self._problems
        ]

    def _order_of_items(self) -> dict[str, list[str]]:
        """The labels of each array: those that are numbers first, then the others as their columns stand."""
        labels: dict[str, list[str]] = {}
        for target in self._targets:
            if target and target.item:
                known = labels.setdefault(target.name, [])
                if target.label not in known:
                    known.append(target.label)
        for known in labels.values():
            known.sort(key=lambda label: int(label) if label.isdecimal() else 1000)
        return labels

    def customer(self, row: Sequence[str]) -> dict[str, Any]:
        """The customer of a row, as JSON. An empty cell gives nothing."""
        found: dict[tuple[str, str, str], str] = {}
        for at, target in self._first:
            if value := _value(row[at]):
                place = target.place
                found[place] = f"{found[place]}{target.joined_by}{value}" if place in found else value
        for at, target in self._otherwise:
            if target.place not in found and (value := _value(row[at])):
                found[target.place] = value
        customer: dict[str, Any] = {name: value for (name, _, item), value in found.items() if not item}
        for array, labels in self._labels.items():
            items = [item for label in labels if (item := self._item(found, array, label))]
            if items:
                customer[array] = items
        return customer

    def _item(self, found: Mapping[tuple[str, str, str], str], array: str, label: str) -> dict[str, str]:
        item = {name: value for name in _ARRAYS[array] if (value := found.get((array, label, name)))}
        kind = Target(array, label).kind
        return {"type": kind, **item} if item and kind else item

    def source_of(self, row: Sequence[str], target: str) -> str:
        """Name the columns that give what an error is about, such as ``phones/0/number``."""
        name, _, rest = target.partition("/")
        number, _, item = rest.partition("/")
        label = ""
        if item:
            filled = [label for label in self._labels.get(name, ()) if self._has(row, name, label)]
            label = filled[int(number)] if number.isdecimal() and int(number) < len(filled) else ""
        names = [
            own
            for own, one in zip(self.names, self._targets, strict=True)
            if one and one.place == (name, label, item) and not one.otherwise
        ]
        return " and ".join(names) or target

    def _has(self, row: Sequence[str], array: str, label: str) -> bool:
        return any(
            target and (target.name, target.label) == (array, label) and row[at]
            for at, target in enumerate(self._targets)
        )


def _value(cell: str) -> str:
    return cell[1:] if _MARKED.match(cell) else cell


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def cells(customer: Mapping[str, Any]) -> dict[str, str]:
    """The columns and cells of a customer; what is null or empty has none."""
    flat: dict[str, Any] = {}
    for name, value in customer.items():
        if isinstance(value, list):
            for number, item in enumerate(value):
                flat |= {f"{name}[{number}].{part}": text for part, text in item.items()}
        else:
            flat[name] = value
    return {name: f"'{text}" if _FORMULA.match(text) else text for name, text in flat.items() if text}


def in_order(columns: Iterable[str]) -> list[str]:
    """Columns in the order of the properties, and of the items of an array."""
    order = [*_TEXTS, *_ARRAYS, *PROPERTIES]

    def key(column: str) -> tuple[int, int, int]:
        target = read_target(column)
        if target is None or not target.item:
            return order.index(column), 0, 0
        return order.index(target.name), int(target.label), _ARRAYS[target.name].index(target.item)

    return sorted(columns, key=key)
