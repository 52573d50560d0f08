"""Inserts a row directly over HTTP: the layers of the storage client cost more than the rest of an add together.

Sources: "Table Service REST API", Insert Entity; "Authorize with Shared Key", Shared Key Lite for the Table service.
"""

import asyncio
import base64
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from email.utils import formatdate
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import aiohttp
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
)
from azure.data.tables.aio import TableClient
from pydantic_core import to_json

_SCOPE = "https://storage.azure.com/.default"
_ERRORS = {401: ClientAuthenticationError, 404: ResourceNotFoundError, 409: ResourceExistsError}

type _Authorize = Callable[[str], Awaitable[str]]
"""Makes the Authorization header of a request with this date."""


class ErrorResponse(NamedTuple):
    """A response other than success, with the attributes that azure-core's errors read."""

    request: str
    status_code: int
    reason: str | None
    headers: Mapping[str, str]
    body: bytes

    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")


class Insert:
    """Inserts rows into the table of a client, with its credential. It never retries; the caller decides that."""

    def __init__(
        self,
        client: TableClient,
        session: aiohttp.ClientSession,
        *,
        timeout: aiohttp.ClientTimeout,
        on_error: Callable[[ErrorResponse], None],
    ) -> None:
        self._url = f"{client.url}/{client.table_name}"
        self._session = session
        self._timeout = timeout
        self._on_error = on_error
        self._authorize = (
            _with_shared_key(client.credential, urlsplit(self._url).path)
            if isinstance(client.credential, AzureNamedKeyCredential)
            else _with_token(cast("AsyncTokenCredential", client.credential))
        )
        self._headers = {
            "Accept": "application/json;odata=minimalmetadata",
            "Content-Type": "application/json;odata=nometadata",
            "DataServiceVersion": "3.0",
            "Prefer": "return-no-content",
            "User-Agent": "booking-customers",
            "x-ms-version": client.api_version,
        }

    async def __call__(self, row: Mapping[str, str | datetime], *, operation_id: str) -> str:
        """Insert a row and return its ETag.

        Raises what the storage client raises: ResourceExistsError for a taken key, ServiceRequestError for a
        connection fault, and so on.
        """
        date = formatdate(usegmt=True)
        headers = {
            **self._headers,
            "Authorization": await self._authorize(date),
            "x-ms-client-request-id": operation_id,
            "x-ms-date": date,
        }
        try:
            async with self._session.post(
                self._url, data=_to_entity(row), headers=headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                if response.status in (201, 204) and (etag := response.headers.get("ETag")):
                    return etag
                body = await response.read()
                failed = ErrorResponse(self._url, response.status, response.reason, response.headers, body)
        except aiohttp.ClientError as error:
            raise ServiceRequestError(error, error=error) from error
        self._on_error(failed)
        raise _ERRORS.get(failed.status_code, HttpResponseError)(response=failed)


def _with_shared_key(credential: AzureNamedKeyCredential, path: str) -> _Authorize:
    """Sign the date and the path with the account's key."""
    account, secret = credential.named_key
    key = base64.b64decode(secret)

    async def authorize(date: str) -> str:
        signature = hmac.digest(key, f"{date}\n/{account}{path}".encode(), "sha256")
        return f"SharedKeyLite {account}:{base64.b64encode(signature).decode()}"

    return authorize


def _with_token(credential: AsyncTokenCredential) -> _Authorize:
    """Use the identity's token, which the credential caches and renews."""
    # While there is no token, one caller requests it rather than all of them.
    requesting = asyncio.Lock()

    async def authorize(_: str) -> str:
        async with requesting:
            return f"Bearer {(await credential.get_token(_SCOPE)).token}"

    return authorize


def _to_entity(row: Mapping[str, str | datetime]) -> bytes:
    """A row as JSON; strings need no type annotation, timestamps do."""
    types = {f"{name}@odata.type": "Edm.DateTime" for name, value in row.items() if isinstance(value, datetime)}
    entity = to_json({**row, **types})
    # Azurite decodes each chunk of a body by itself, which destroys a character that two of them share.
    return entity if entity.isascii() else json.dumps(json.loads(entity)).encode()
