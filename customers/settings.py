"""The settings of the service: read from the environment once, checked as a whole, then frozen."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


# Each plan of Azure Functions sets at least one of these; Core Tools sets none.
_AZURE_ONLY = ("WEBSITE_INSTANCE_ID", "WEBSITE_SKU", "WEBSITE_POD_NAME", "LEGION_SERVICE_HOST")


class SettingsError(Exception):
    """A setting is missing or malformed; the message names each such setting and never shows a value."""


def check_url(value: str) -> str:
    """Return ``value``, without a slash at its end, if it is an https URL, or an http one of this machine."""
    url = urlsplit(value)
    if not url.hostname or not (url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK)):
        raise PydanticCustomError("url", "must be an https:// URL (http:// is for this machine's loopback only)")
    return value.rstrip("/")


def _check_https(value: str) -> str:
    if not check_url(value).startswith("https://"):
        raise PydanticCustomError("url", "must be an https:// URL")
    return value.rstrip("/")


def _check_emulator(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    parts = dict(part.partition("=")[::2] for part in text.rstrip(";").split(";"))
    if parts.get("UseDevelopmentStorage") == "true":
        return value
    endpoint = urlsplit(parts.get("TableEndpoint", ""))
    # Not localhost: azure-data-tables takes it for Cosmos DB unless the port is 10002.
    if endpoint.scheme != "http" or endpoint.hostname not in ("127.0.0.1", "::1"):
        raise PydanticCustomError(
            "emulator",
            "must be a connection string of Azurite, with TableEndpoint=http://127.0.0.1:…; "
            "for a storage account set CUSTOMERS_STORAGE__tableServiceUri instead",
        )
    return value


def _check_host(value: str) -> str:
    if not _HOST.fullmatch(value):
        raise PydanticCustomError("host", "must be host names, separated by commas, each with its port if it has one")
    return value.lower()


def _split_list(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class TableSettings(BaseModel):
    """The settings of the table. Times are in seconds."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    storage: Annotated[
        Annotated[SecretStr, AfterValidator(_check_emulator)] | None, Field(alias="CUSTOMERS_STORAGE")
    ] = None
    table_service_uri: Annotated[
        Annotated[str, AfterValidator(_check_https)] | None, Field(alias="CUSTOMERS_STORAGE__tableServiceUri")
    ] = None
    client_id: Annotated[UUID | None, Field(alias="CUSTOMERS_STORAGE__clientId")] = None
    table: Annotated[str, Field(alias="CUSTOMERS_TABLE", pattern="^[A-Za-z][A-Za-z0-9]{2,62}$")] = "customers"
    connect_timeout: Annotated[PositiveFloat, Field(alias="STORAGE_CONNECT_TIMEOUT", le=60)] = 2.0
    read_timeout: Annotated[PositiveFloat, Field(alias="STORAGE_READ_TIMEOUT", le=60)] = 4.0
    budget: Annotated[PositiveFloat, Field(alias="STORAGE_BUDGET", le=200)] = 10.0

    deployed: Annotated[str | None, Field(validation_alias=AliasChoices(*_AZURE_ONLY))] = None

    @model_validator(mode="after")
    def _check_storage(self) -> Self:
        if (self.storage is None) == (self.table_service_uri is None):
            raise PydanticCustomError(
                "storage", "set one of CUSTOMERS_STORAGE (Azurite) and CUSTOMERS_STORAGE__tableServiceUri (Azure)"
            )
        if self.deployed and self.storage is not None:
            raise PydanticCustomError("deployed", "CUSTOMERS_STORAGE is for local use, not for Azure")
        return self

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings; a variable that is empty counts as not set.

        Raises SettingsError, which names every setting that is missing or malformed.
        """
        try:
            return cls.model_validate({name: value for name, value in environ.items() if value})
        except ValidationError as error:
            problems = [
                ": ".join(part for part in (".".join(map(str, problem["loc"][:1])), problem["msg"]) if part)
                for problem in error.errors(include_url=False, include_input=False)
            ]
            raise SettingsError("Settings: " + "; ".join(problems)) from None


class Settings(TableSettings):
    """All settings. Times are in seconds, sizes in bytes."""

    tenant_id: Annotated[UUID, Field(alias="TOKEN_TENANT_ID")]
    audiences: Annotated[tuple[str, ...], BeforeValidator(_split_list), Field(alias="TOKEN_AUDIENCE", min_length=1)]
    authority: Annotated[str, AfterValidator(_check_https), Field(alias="TOKEN_AUTHORITY")] = (
        "https://login.microsoftonline.com"
    )
    metadata_override: Annotated[
        Annotated[str, AfterValidator(check_url)] | None, Field(alias="TOKEN_METADATA_URL")
    ] = None

    allow_guests: Annotated[bool, Field(alias="ALLOW_GUESTS")] = False
    business_access: Annotated[Literal["members", "tenant"], Field(alias="BUSINESS_ACCESS")] = "members"
    forwarded_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(_check_host)], ...],
        BeforeValidator(_split_list),
        Field(alias="FORWARDED_HOSTS"),
    ] = ()

    email_address_check: Annotated[Literal["none", "smtp"], Field(alias="EMAIL_ADDRESS_CHECK")] = "none"
    concurrency: Annotated[int, Field(alias="MAX_CONCURRENT_REQUESTS", ge=1, le=100_000)] = 1000
    body_limit: Annotated[int, Field(alias="BODY_LIMIT", ge=1024, le=104_857_600)] = 1_048_576

    @model_validator(mode="after")
    def _check_metadata_url(self) -> Self:
        if self.deployed and self.metadata_url.startswith("http://"):
            raise PydanticCustomError("deployed", "an http:// TOKEN_METADATA_URL is for local use, not for Azure")
        return self

    @property
    def metadata_url(self) -> str:
        """Where the issuer publishes its metadata (OpenID Connect Discovery 1.0, section 4)."""
        return self.metadata_override or f"{self.authority}/{self.tenant_id}/v2.0/.well-known/openid-configuration"
