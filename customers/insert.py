"""The insert of a row, straight over azure-core: the layers of the storage client cost more than all else in an add.

Sources: "Table Service REST API", Insert Entity; "Authorize with Shared Key", Shared Key Lite for the Table service.
"""

import base64
import hmac
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import formatdate
from typing import Any, cast
from urllib.parse import urlsplit

from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceResponseError,
)
from azure.core.pipeline import AsyncPipeline, PipelineRequest, PipelineResponse
from azure.core.pipeline.policies import (
    AsyncBearerTokenCredentialPolicy,
    AsyncRetryPolicy,
    CustomHookPolicy,
    SansIOHTTPPolicy,
)
from azure.core.pipeline.transport import AioHttpTransport
from azure.core.rest import AsyncHttpResponse, HttpRequest
from azure.data.tables.aio import TableClient
from pydantic_core import to_json

_SCOPE = "https://storage.azure.com/.default"
# It names the row it makes, so that repeating it can't make a second: where the first try did commit, the repeat meets
# its own row, which the operation's id in the row tells.
_REPEATABLE = ["POST"]
_ERRORS = {401: ClientAuthenticationError, 404: ResourceNotFoundError, 409: ResourceExistsError}


class Insert:
    """Inserts rows into the table of a client, with its credential and over its transport."""

    def __init__(
        self,
        client: TableClient,
        transport: AioHttpTransport,
        *,
        retries: Mapping[str, Any],
        on_answer: Callable[[PipelineResponse[Any, Any]], None],
    ) -> None:
        self._url = f"{client.url}/{client.table_name}"
        self._headers = {
            "Accept": "application/json;odata=minimalmetadata",
            "Content-Type": "application/json;odata=nometadata",
            "DataServiceVersion": "3.0",
            "Prefer": "return-no-content",
            "User-Agent": "booking-customers",
            "x-ms-version": client.api_version,
        }
        self._pipeline: AsyncPipeline[HttpRequest, AsyncHttpResponse] = AsyncPipeline(
            transport,
            [
                _SharedKeyLite(client.credential, self._url)
                if isinstance(client.credential, AzureNamedKeyCredential)
                else AsyncBearerTokenCredentialPolicy(cast("Any", client.credential), _SCOPE),
                AsyncRetryPolicy(**retries),
                CustomHookPolicy[HttpRequest, Any](raw_response_hook=on_answer),
            ],
        )

    async def __call__(self, row: Mapping[str, str | datetime], *, operation_id: str) -> str:
        """Insert a row and return its ETag. Raises ResourceExistsError, as the storage client does, and so on."""
        request = HttpRequest(
            "POST",
            self._url,
            headers={**self._headers, "x-ms-date": formatdate(usegmt=True), "x-ms-client-request-id": operation_id},
            content=_to_entity(row),
        )
        response = (await self._pipeline.run(request, retry_on_methods=_REPEATABLE)).http_response
        if response.status_code not in (201, 204):
            raise _ERRORS.get(response.status_code, HttpResponseError)(response=response)
        if etag := response.headers.get("ETag"):
            return str(etag)
        raise ServiceResponseError("the answer has no ETag")


class _SharedKeyLite(SansIOHTTPPolicy[HttpRequest, AsyncHttpResponse]):
    """Signs with an account's key: the date and the path."""

    def __init__(self, credential: AzureNamedKeyCredential, url: str) -> None:
        self._account, key = credential.named_key
        self._key = base64.b64decode(key)
        self._resource = f"/{self._account}{urlsplit(url).path}"

    def on_request(self, request: PipelineRequest[HttpRequest]) -> None:
        headers = request.http_request.headers
        signature = hmac.digest(self._key, f"{headers['x-ms-date']}\n{self._resource}".encode(), "sha256")
        headers["Authorization"] = f"SharedKeyLite {self._account}:{base64.b64encode(signature).decode()}"


def _to_entity(row: Mapping[str, str | datetime]) -> bytes:
    """A row as JSON; the types of texts go without saying, those of moments do not."""
    types = {f"{name}@odata.type": "Edm.DateTime" for name, value in row.items() if isinstance(value, datetime)}
    return to_json({**row, **types})
