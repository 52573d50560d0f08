"""The bookingCustomer: what a client may send, what is kept, and what is answered.

Source: Microsoft Graph, "bookingCustomer resource type", "physicalAddress resource type", "phone resource type".
"""

import json
import re
from collections import Counter
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from customers.errors import BadRequest, Detail
from customers.keys import Key

CHANGEABLE = ("display_name", "email_address", "addresses", "phones")
"""The properties that a client sends and may change; the id it may only send, the rest is the service's."""

ODATA_TYPE = "#microsoft.graph.bookingCustomer"

# A column of a Table Storage entity holds 32,768 UTF-16 units. A character takes at most two of them, escaped for
# JSON or not, so 10 addresses take at most 10 x (6 x 2 x 255 + 110) and 20 phones 20 x (3 x 2 x 255 + 60) units.
MAX_DISPLAY_NAME = 256
MAX_EMAIL_ADDRESS = 320
MAX_TEXT = 255
MAX_ADDRESSES = 10
MAX_PHONES = 20

# Where Pydantic's words are about its own ways.
_MESSAGES = {"extra_forbidden": "There is no such property; leave it out"}

# More names than any customer has, annotations included. A body of nothing but mistakes must not keep the service busy.
_MAX_NAMES = 200

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _refuse_control_characters(value: str) -> str:
    if _CONTROL_CHARACTER.search(value):
        raise PydanticCustomError("control_character", "Control characters are not allowed")
    return value


def instant(value: datetime) -> str:
    """Write a UTC moment as Graph does: ``2026-11-23T12:00:00.123Z``, in milliseconds."""
    return value.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


type _Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_refuse_control_characters)]
type _DisplayName = Annotated[
    str, Field(min_length=1, max_length=MAX_DISPLAY_NAME), AfterValidator(_refuse_control_characters)
]
type _EmailAddress = Annotated[
    str, Field(min_length=1, max_length=MAX_EMAIL_ADDRESS), AfterValidator(_refuse_control_characters)
]
type _Instant = Annotated[datetime, PlainSerializer(instant, return_type=str)]


class _Resource(BaseModel):
    """A JSON object of Graph's: camelCase names, no unknown ones, and annotations (a name with ``@``) passed over."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        # A ValidationError may end up in a log, where a customer's data must not.
        hide_input_in_errors=True,
        serialize_by_alias=True,
    )

    annotations_read: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _pass_over_annotations(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > _MAX_NAMES:
            raise PydanticCustomError("too_many_names", f"An object has at most {_MAX_NAMES} names")
        if isinstance(value, dict) and any("@" in name for name in value):
            return {name: item for name, item in value.items() if "@" not in name or name in cls.annotations_read}
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


def _at_most(most: int) -> BeforeValidator:
    """Look at the length of an array before anything in it."""

    def check(value: Any) -> Any:
        if isinstance(value, list) and len(value) > most:
            raise PydanticCustomError("too_long", f"An array of at most {most} is allowed here")
        return value

    return BeforeValidator(check)


type Addresses = Annotated[tuple[PhysicalAddress, ...], _at_most(MAX_ADDRESSES)]
type Phones = Annotated[tuple[Phone, ...], _at_most(MAX_PHONES)]


class _SentCustomer(_Resource):
    """A bookingCustomer as a client sends it; what it did not send is not in ``model_fields_set``."""

    annotations_read = frozenset({"@odata.type"})

    odata_type: Annotated[str, Field(alias="@odata.type")] = ODATA_TYPE
    id: Key = ""
    display_name: _DisplayName = ""
    email_address: _EmailAddress = ""
    addresses: Addresses = ()
    phones: Phones = ()
    # The service sets these; a client that sends back what it read is not at fault.
    created_date_time: Any = None
    last_updated_date_time: Any = None

    @field_validator("odata_type")
    @classmethod
    def _is_booking_customer(cls, value: str) -> str:
        if value.lower() != ODATA_TYPE.lower():
            raise PydanticCustomError("odata_type", f"Input should be '{ODATA_TYPE}'")
        return ODATA_TYPE

    @field_validator("email_address")
    @classmethod
    def _is_address(cls, value: str, info: ValidationInfo) -> str:
        """Demand a valid address where the settings ask for one; it is kept as it was given in any case."""
        if (info.context or {}).get("email_address_check") == "smtp":
            from email_validator import EmailNotValidError, validate_email  # noqa: PLC0415 - only where asked for

            try:
                validate_email(value, check_deliverability=False)
            except EmailNotValidError as error:
                raise PydanticCustomError("email_address", f"Not a valid e-mail address: {error}") from None
        return value

    @classmethod
    def from_json(cls, body: bytes, *, email_address_check: str) -> Self:
        """Read a body. Raises BadRequest, which tells of every violation at once."""
        violations: list[Detail] = []
        customer = None
        try:
            customer = cls.model_validate_json(body, context={"email_address_check": email_address_check})
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            violations += [Detail(p["type"], _target(p["loc"]), _MESSAGES.get(p["type"], p["msg"])) for p in problems]
        if not any(violation.code == "json_invalid" for violation in violations):
            violations += _what_no_parser_agrees_on(body)
        if customer is None or violations:
            raise BadRequest.because(violations)
        return customer


class NewCustomer(_SentCustomer):
    """A customer to be added; without an ``id``, the service makes one."""

    display_name: _DisplayName
    email_address: _EmailAddress


class CustomerUpdate(_SentCustomer):
    """The changes to a customer: the properties that were sent, and no others."""

    @property
    def changes(self) -> dict[str, Any]:
        """The new values, by the names that BookingCustomer has for them."""
        return {name: getattr(self, name) for name in CHANGEABLE if name in self.model_fields_set}


class BookingCustomer(_Resource):
    """A bookingCustomer as it is kept and answered; ``etag`` is Table Storage's own."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    odata_type: Annotated[str, Field(alias="@odata.type")] = ODATA_TYPE
    etag: Annotated[str, Field(alias="@odata.etag")]
    id: str
    display_name: str
    email_address: str
    addresses: tuple[PhysicalAddress, ...]
    phones: tuple[Phone, ...]
    created_date_time: _Instant
    last_updated_date_time: _Instant


def _target(loc: tuple[int | str, ...]) -> str:
    """Where in the body: ``phones/0/number``. A client's own names are cut, lest the answer be as long as the body."""
    return "/".join(str(part)[:128] for part in loc)


def _what_no_parser_agrees_on(body: bytes) -> list[Detail]:
    """Tell of duplicate names and of NaN and Infinity, on which JSON parsers differ (RFC 8259, 4 and 6).

    ``body`` has passed Pydantic's parser, which bounds its depth.
    """
    violations: list[Detail] = []

    def note_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        if len(names) < len(pairs):
            times = Counter(name for name, _ in pairs)
            repeated = (name for name, count in times.items() if count > 1)
            violations.extend(Detail("duplicate_key", name[:128], "This name stands here twice") for name in repeated)
        return names

    def note_constant(constant: str) -> None:
        violations.append(Detail("json_invalid", "", f"{constant} is not JSON"))

    json.loads(
        body,
        object_pairs_hook=note_duplicates,
        parse_constant=note_constant,
        # Numbers are not looked at, and Python refuses to convert very long ones.
        parse_int=str,
        parse_float=str,
    )
    return violations
