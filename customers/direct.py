"""Requests to the table directly over HTTP: the layers of the storage client cost more than the requests themselves.

Sources: "Table Service REST API"; "Authorize with Shared Key", Shared Key Lite for the Table service.
"""

import asyncio
import base64
import hmac
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from typing import NamedTuple, cast
from urllib.parse import quote, urlsplit

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
from yarl import URL

SCOPE = "https://storage.azure.com/.default"
"""What a token for storage is asked for."""

TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
"""The statuses after which the same request is likely to succeed if it is repeated at once."""

_ERRORS = {401: ClientAuthenticationError, 404: ResourceNotFoundError, 409: ResourceExistsError}

type _Authorize = Callable[[str, str], Awaitable[str]]
"""Makes the Authorization header of a request with this date and path."""


class Response(NamedTuple):
    """What storage answered, with the attributes that azure-core's errors read."""

    request: str
    status_code: int
    reason: str | None
    headers: Mapping[str, str]
    body: bytes

    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")


class Direct:
    """Sends requests for the table of a client, with its credential. It never retries; the caller decides that."""

    def __init__(
        self,
        client: TableClient,
        session: aiohttp.ClientSession,
        *,
        timeout: aiohttp.ClientTimeout,
        on_error: Callable[[Response], None],
    ) -> None:
        # ``on_error`` may raise something else for a response that is an error.
        self.url = client.url
        """The address of the service."""
        self.table_url = f"{client.url}/{client.table_name}"
        self._session = session
        self._timeout = timeout
        self._on_error = on_error
        self._authorize = (
            _with_shared_key(client.credential)
            if isinstance(client.credential, AzureNamedKeyCredential)
            else _with_token(cast("AsyncTokenCredential", client.credential))
        )
        self._headers = {
            "Accept": "application/json;odata=minimalmetadata",
            "DataServiceVersion": "3.0",
            "User-Agent": "booking-customers",
            "x-ms-version": client.api_version,
        }

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None, *, query: str = ""
    ) -> Response:
        """Send one request to a URL and query string, both percent-encoded, and read the whole response.

        Raises ServiceRequestError for a connection fault.
        """
        date = formatdate(usegmt=True)
        authorization = await self._authorize(date, urlsplit(url).path)
        target = URL(f"{url}?{query}" if query else url, encoded=True)
        try:
            async with self._session.request(
                method,
                target,
                data=body,
                headers={**self._headers, **headers, "Authorization": authorization, "x-ms-date": date},
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                return Response(url, response.status, response.reason, response.headers, await response.read())
        except aiohttp.ClientError as error:
            raise ServiceRequestError(error, error=error) from error

    def error(self, response: Response) -> HttpResponseError:
        """Return the storage client's error for such a response: ResourceExistsError for a 409, and so on."""
        self._on_error(response)
        return _ERRORS.get(response.status_code, HttpResponseError)(response=response)


def entity_url(table_url: str, partition_key: str, row_key: str) -> str:
    """The percent-encoded URL of an entity; a quote in a key is doubled."""
    keys = (quote(key.replace("'", "''"), safe="") for key in (partition_key, row_key))
    return "{}(PartitionKey='{}',RowKey='{}')".format(table_url, *keys)


def _with_shared_key(credential: AzureNamedKeyCredential) -> _Authorize:
    """Sign the date and the path with the account's key."""
    account, secret = credential.named_key
    key = base64.b64decode(secret)

    async def authorize(date: str, path: str) -> str:
        signature = hmac.digest(key, f"{date}\n/{account}{path}".encode(), "sha256")
        return f"SharedKeyLite {account}:{base64.b64encode(signature).decode()}"

    return authorize


def _with_token(credential: AsyncTokenCredential) -> _Authorize:
    """Use the identity's token, which the credential caches and renews."""
    # While there is no token, one caller requests it rather than all of them.
    requesting = asyncio.Lock()

    async def authorize(_: str, __: str) -> str:
        async with requesting:
            return f"Bearer {(await credential.get_token(SCOPE)).token}"

    return authorize
