"""The bookingCustomer: what a client may send, what is stored, and what is returned.

Source: Microsoft Graph, "bookingCustomer resource type", "physicalAddress resource type", "phone resource type".
"""

import json
import re
from collections import Counter
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from customers.errors import BadRequest, Detail
from customers.keys import CONTROL_CHARACTERS, Key
from customers.surface import TYPE_NAME

ODATA_TYPE = f"#{TYPE_NAME}"

# A column of a Table Storage entity holds 32,768 UTF-16 code units. A character takes at most two of them, escaped for
# JSON or not, so 10 addresses take at most 10 x (6 x 2 x 255 + 110) and 20 phones 20 x (3 x 2 x 255 + 60) units.
MAX_DISPLAY_NAME = 256
MAX_EMAIL_ADDRESS = 320
MAX_TEXT = 255
MAX_ADDRESSES = 10
MAX_PHONES = 20

# Pydantic's own message would speak of "extra inputs".
_MESSAGES = {"extra_forbidden": "There is no such property; leave it out"}

# More names than any customer has, annotations included. It bounds the work on a body full of mistakes.
MAX_NAMES = 200

_CONTROL_CHARACTER = re.compile(f"[{CONTROL_CHARACTERS}]")


def _refuse_control_characters(value: str) -> str:
    if _CONTROL_CHARACTER.search(value):
        raise PydanticCustomError("control_character", "must not contain control characters")
    return value


# In the schema only, because the message of Pydantic's own check is a regular expression.
_NO_CONTROL_CHARACTERS = Field(json_schema_extra={"pattern": f"^[^{CONTROL_CHARACTERS}]*$"})


def _limit_items(items: Any, limit: int) -> BeforeValidator:
    """Check the length of an array before any of its items. A null is an empty array."""

    def check(value: Any) -> Any:
        if value is None:
            return []
        if isinstance(value, list) and len(value) > limit:
            raise PydanticCustomError("too_long", f"must have at most {limit} items")
        return value

    return BeforeValidator(check, json_schema_input_type=Annotated[items, Field(max_length=limit)] | None)


def format_timestamp(value: datetime) -> str:
    """Write a UTC timestamp as Graph does, in milliseconds: ``2026-11-23T12:00:00.123Z``."""
    return value.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


# After the limits: Pydantic words a limit for what a function returns as one of a list.
_PLAIN = AfterValidator(_refuse_control_characters)
_Text = Annotated[str, Field(max_length=MAX_TEXT), _PLAIN, _NO_CONTROL_CHARACTERS]
_DisplayName = Annotated[str, Field(min_length=1, max_length=MAX_DISPLAY_NAME), _PLAIN, _NO_CONTROL_CHARACTERS]
_EmailAddress = Annotated[str, Field(min_length=1, max_length=MAX_EMAIL_ADDRESS), _PLAIN, _NO_CONTROL_CHARACTERS]
_Timestamp = Annotated[
    datetime,
    PlainSerializer(format_timestamp, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]


class _Resource(BaseModel):
    """A JSON object of Graph's: camelCase names, no unknown ones; annotations (names with ``@``) are ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        # A ValidationError may be logged, and the log must not contain customer data.
        hide_input_in_errors=True,
        serialize_by_alias=True,
        # A response has every property.
        json_schema_serialization_defaults_required=True,
    )

    annotations_read: ClassVar[frozenset[str]] = frozenset()
    absent_if_null: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _ignore_what_says_nothing(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MAX_NAMES:
            raise PydanticCustomError("too_many_names", f"must have at most {MAX_NAMES} names")
        if isinstance(value, dict) and any("@" in name for name in value):
            value = {name: item for name, item in value.items() if "@" not in name or name in cls.annotations_read}
        # SDKs with a backing store send every null that was assigned.
        if isinstance(value, dict) and any(name in value and value[name] is None for name in cls.absent_if_null):
            value = {name: item for name, item in value.items() if item is not None or name not in cls.absent_if_null}
        return value


class PhysicalAddress(_Resource):
    """A postal address; every property may be null."""

    type: Literal["unknown", "home", "business", "other"] | None = None
    post_office_box: _Text | None = None
    street: _Text | None = None
    city: _Text | None = None
    state: _Text | None = None
    country_or_region: _Text | None = None
    postal_code: _Text | None = None


class Phone(_Resource):
    """A phone number; every property may be null."""

    type: (
        Literal[
            "home",
            "business",
            "mobile",
            "other",
            "assistant",
            "homeFax",
            "businessFax",
            "otherFax",
            "pager",
            "radio",
        ]
        | None
    ) = None
    number: _Text | None = None
    language: _Text | None = None
    region: _Text | None = None


class CustomerProperties(_Resource):
    """The properties that a client sets.

    To add an optional property, add it here, with the default ``None`` (or ``()`` for an array). Its column, its part
    in updates and repeats, ``$select`` and, for a string, ``$filter`` follow. A row without it reads as the default.
    """

    display_name: _DisplayName = ""
    email_address: _EmailAddress = ""
    addresses: Annotated[tuple[PhysicalAddress, ...], _limit_items(tuple[PhysicalAddress, ...], MAX_ADDRESSES)] = ()
    phones: Annotated[tuple[Phone, ...], _limit_items(tuple[Phone, ...], MAX_PHONES)] = ()


class _SentCustomer(CustomerProperties):
    """A bookingCustomer as a client sends it; ``model_fields_set`` holds what it sent."""

    annotations_read = frozenset({"@odata.type"})
    absent_if_null = frozenset({"@odata.type", "id"})

    odata_type: Annotated[str, Field(alias="@odata.type")] = ODATA_TYPE
    id: Key = ""
    # Set by the service, and ignored here, so that a client may send back what it read.
    created_date_time: Annotated[Any, Field(exclude=True)] = None
    last_updated_date_time: Annotated[Any, Field(exclude=True)] = None

    @field_validator("odata_type")
    @classmethod
    def _is_booking_customer(cls, value: str) -> str:
        if value.lower() != ODATA_TYPE.lower():
            raise PydanticCustomError("odata_type", f"must be '{ODATA_TYPE}'")
        return ODATA_TYPE

    @field_validator("email_address")
    @classmethod
    def _is_address(cls, value: str, info: ValidationInfo) -> str:
        """Require a valid address if the settings say so; it is stored as it was sent in any case."""
        if (info.context or {}).get("email_address_check") == "smtp":
            from email_validator import EmailNotValidError, validate_email  # noqa: PLC0415 - only where required

            try:
                validate_email(value, check_deliverability=False)
            except EmailNotValidError as error:
                raise PydanticCustomError("email_address", f"must be a valid e-mail address: {error}") from None
        return value

    @classmethod
    def from_json(cls, body: bytes, *, email_address_check: str) -> Self:
        """Read a body. Raises BadRequest, which names every violation."""
        violations: list[Detail] = []
        customer = None
        try:
            customer = cls.model_validate_json(body, context={"email_address_check": email_address_check})
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            violations += [Detail(p["type"], _target(p["loc"]), _MESSAGES.get(p["type"], p["msg"])) for p in problems]
        if not any(violation.code == "json_invalid" for violation in violations):
            violations += _check_json_strictly(body)
        if customer is None or violations:
            raise BadRequest.because(violations)
        return customer


class NewCustomer(_SentCustomer):
    """A customer to add; without an ``id``, the service makes one."""

    display_name: _DisplayName
    email_address: _EmailAddress

    @property
    def properties(self) -> dict[str, Any]:
        """Every property, by the names of CustomerProperties."""
        return {name: getattr(self, name) for name in CustomerProperties.model_fields}

    @property
    def sent(self) -> dict[str, Any]:
        """What was sent, as JSON; a property at its default counts as not sent, whether the client knew it or not."""
        return self.model_dump(exclude_defaults=True)


class CustomerUpdate(_SentCustomer):
    """The changes to a customer: only the properties that were sent."""

    @property
    def changes(self) -> dict[str, Any]:
        """The new values, by the names of CustomerProperties."""
        return {name: getattr(self, name) for name in CustomerProperties.model_fields if name in self.model_fields_set}


class BookingCustomer(CustomerProperties):
    """A stored customer."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    id: str
    created_date_time: _Timestamp
    last_updated_date_time: _Timestamp


class Stored(NamedTuple):
    """A stored customer and the ETag of its row; for an add, whether an earlier request added it."""

    customer: BookingCustomer
    etag: str
    is_repeat: bool = False


PROPERTIES = tuple(str(field.alias) for field in BookingCustomer.model_fields.values())
"""The names of all properties of a stored customer."""


def _target(loc: tuple[int | str, ...]) -> str:
    """Where in the body: ``phones/0/number``. Names are cut, so that the response does not grow with the body."""
    return "/".join(str(part)[:128] for part in loc)


def _check_json_strictly(body: bytes) -> list[Detail]:
    """Report duplicate names, NaN and Infinity, on which JSON parsers differ (RFC 8259, 4 and 6).

    ``body`` has passed Pydantic's parser, which bounds its depth.
    """
    violations: list[Detail] = []

    def report_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        if len(names) < len(pairs):
            times = Counter(name for name, _ in pairs)
            repeated = (name for name, count in times.items() if count > 1)
            violations.extend(
                Detail("duplicate_key", name[:128], "must not appear more than once") for name in repeated
            )
        return names

    def report_constant(constant: str) -> None:
        violations.append(Detail("json_invalid", "", f"{constant} is not valid JSON"))

    json.loads(
        body,
        object_pairs_hook=report_duplicates,
        parse_constant=report_constant,
        # Numbers are not looked at, and Python refuses to convert very long ones.
        parse_int=str,
        parse_float=str,
    )
    return violations
