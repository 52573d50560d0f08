"""Tokens over HTTP: what is accepted, and that everything else is refused in Graph's form."""

import base64
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from anyio.from_thread import BlockingPortal
from azure.data.tables import TableClient
from cryptography.hazmat.primitives import serialization

from customers.members import Role
from infra.local.issuer import AUTHORITY, TENANT, USER, Issuer, new_key
from tests.conftest import PublishIssuer, Service, StartService, free_port
from tests.support.graph import BETA, DOCUMENTED, assert_customer, assert_error
from tests.support.members import set_member

COLLECTION = BETA.format("Contoso")
PERSONAL = "9188040d-6c67-4c5b-b112-36a304b66dad"
WRITES = ["BookingsAppointment.ReadWrite.All", "Bookings.ReadWrite.All", "Bookings.Manage.All"]


def add(client: httpx.Client, authorization: str | bytes | None) -> httpx.Response:
    """Add the documented customer with that header."""
    headers = {} if authorization is None else {"Authorization": authorization}
    return client.post(COLLECTION, json=DOCUMENTED, headers=headers)  # type: ignore[arg-type]


def get(client: httpx.Client, token: str) -> httpx.Response:
    """Get a customer that is not there."""
    return client.get(f"{COLLECTION}/none", headers={"Authorization": f"Bearer {token}"})


def encode(part: Any) -> str:
    """One part of a token."""
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Basic YTpi", "Token x"])
def test_the_error_for_a_missing_token_says_how_to_send_one(anonymous: httpx.Client, authorization: str | None) -> None:
    response = add(anonymous, authorization)
    assert_error(response, 401, "InvalidAuthenticationToken", says="Authorization: Bearer")
    assert f"{AUTHORITY}/{TENANT}/oauth2/v2.0/authorize" in response.headers["WWW-Authenticate"]
    assert "error=" not in response.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    "garbage",
    [
        "x",
        "a.b.c",
        "a.b.c.d.e",
        "....",
        "é.é.é",
        encode([1]) + ".e30.x",
        encode(b"[" * 9000) + ".e30.x",
        encode(b'{"alg":"RS256","kid":' + b"[" * 9000 + b"}") + ".e30.x",
        encode({"alg": "RS256", "kid": 7}) + ".e30.x",
        encode({"alg": "RS256", "kid": None}) + ".e30.x",
        encode({"alg": "RS256"}) + ".e30.x",
        encode({"alg": ["RS256"], "kid": "x"}) + ".e30.x",
        encode(b'{"alg": "RS256", "kid": "\xff"}') + ".e30.x",
        encode(b'{"alg": "RS256", "kid": "x", "n": ' + b"9" * 5000 + b"}") + ".e30.x",
        "x, Bearer y",
    ],
)
def test_garbage_is_refused(anonymous: httpx.Client, garbage: str) -> None:
    response = add(anonymous, f"Bearer {garbage}".encode())
    assert_error(response, 401, "InvalidAuthenticationToken")
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"exp": int(time.time()) - 3600}, "expired"),
        ({"nbf": int(time.time()) + 3600}, "not valid yet"),
        ({"aud": "api://another"}, "audience"),
        ({"aud": ["api://another"]}, "audience"),
        ({"aud": 5}, ""),
        ({"iss": "https://sts.windows.net/0f0e0d0c-0000-4000-8000-000000000000/"}, "issuer"),
        ({"iss": f"{AUTHORITY}/{TENANT}/v2.0/"}, "issuer"),
        ({"iss": f"{AUTHORITY}/{PERSONAL}/v2.0"}, "issuer"),
        ({"iss": f"https://sts.windows.net/{PERSONAL}/"}, "issuer"),
        ({"iss": ["x"]}, ""),
        ({"tid": "0f0e0d0c-0000-4000-8000-000000000000"}, "tenant"),
        ({"tid": TENANT.upper()}, "tenant"),
        *(({name: None}, name) for name in ("exp", "nbf", "aud", "iss", "tid")),
        ({"exp": "soon"}, ""),
        ({"exp": float("inf")}, ""),
        ({"nbf": float("nan")}, ""),
        ({"exp": [1]}, ""),
    ],
)
def test_a_signed_token_with_a_wrong_claim_is_refused(
    anonymous: httpx.Client, issuer: Issuer, claims: dict[str, Any], says: str
) -> None:
    response = add(anonymous, f"Bearer {issuer.token(claims)}")
    assert_error(response, 401, "InvalidAuthenticationToken", says=says)
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]


def test_clocks_may_differ_by_less_than_a_minute(anonymous: httpx.Client, issuer: Issuer) -> None:
    now = int(time.time())
    assert_customer(add(anonymous, f"Bearer {issuer.token({'exp': now - 30, 'nbf': now - 90})}"))
    assert_customer(add(anonymous, f"Bearer {issuer.token({'nbf': now + 30})}"))


def test_a_token_of_either_version_is_accepted(anonymous: httpx.Client, issuer: Issuer) -> None:
    assert_customer(add(anonymous, f"Bearer {issuer.token()}"))
    first_version = issuer.token({"iss": f"https://sts.windows.net/{TENANT}/", "ver": "1.0", "azp": None, "appid": "x"})
    assert_customer(add(anonymous, f"bearer  {first_version}"))


def test_a_token_that_is_not_signed_is_refused(anonymous: httpx.Client, issuer: Issuer) -> None:
    payload = issuer.token().split(".")[1]
    for header in ({"alg": "none"}, {"alg": "none", "kid": issuer.kid}, {"alg": "NONE", "kid": issuer.kid}):
        assert_error(add(anonymous, f"Bearer {encode(header)}.{payload}."), 401, "InvalidAuthenticationToken")


def test_a_token_signed_with_the_public_key_as_a_secret_is_refused(anonymous: httpx.Client, issuer: Issuer) -> None:
    jwk = jwt.PyJWK(issuer.public_keys()["keys"][0])
    pem = jwk.key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signed = f"{encode({'alg': 'HS256', 'kid': issuer.kid})}.{issuer.token().split('.')[1]}"
    signature = encode(hmac.digest(pem, signed.encode(), "sha256"))
    assert_error(add(anonymous, f"Bearer {signed}.{signature}"), 401, "InvalidAuthenticationToken", says="RS256")


def test_a_token_that_was_altered_or_signed_by_another_key_is_refused(anonymous: httpx.Client, issuer: Issuer) -> None:
    header, payload, signature = issuer.token().split(".")
    other = issuer.token({"tid": "x"}).split(".")[1]
    stranger = Issuer(new_key()).token(headers={"kid": issuer.kid})
    for token in (f"{header}.{other}.{signature}", f"{header}.{payload}.", f"{header}.{payload}.AAAA", stranger):
        assert_error(
            add(anonymous, f"Bearer {token}"), 401, "InvalidAuthenticationToken", says="its signature is invalid"
        )


def test_an_unknown_key_is_refused(anonymous: httpx.Client) -> None:
    response = add(anonymous, f"Bearer {Issuer(new_key()).token()}")
    assert_error(response, 401, "InvalidAuthenticationToken", says="does not publish")


@pytest.mark.parametrize("permission", ["Bookings.Read.All", *WRITES])
@pytest.mark.parametrize("as_role", [True, False])
def test_a_permission_counts_as_scope_or_role(
    anonymous: httpx.Client, issuer: Issuer, table: TableClient, permission: str, *, as_role: bool
) -> None:
    set_member(table, "Contoso", USER, Role.ADMINISTRATOR)
    claims = {"scp": None, "roles": ["x", permission]} if as_role else {"scp": f"openid {permission}"}
    token = issuer.token(claims)
    assert_error(get(anonymous, token), 404, "notFound")
    response = add(anonymous, f"Bearer {token}")
    if permission in WRITES:
        assert_customer(response)
    else:
        assert_error(response, 403, "accessDenied", says="BookingsAppointment.ReadWrite.All")
        assert 'error="insufficient_scope"' in response.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    "claims",
    [
        {"scp": None},
        {"scp": ""},
        {"scp": "User.Read"},
        {"scp": "bookings.manage.all"},
        {"scp": ["Bookings.Manage.All"]},
        {"scp": None, "roles": "Bookings.Manage.All"},
        {"scp": None, "roles": [["Bookings.Manage.All"]]},
        {"scp": "User.Read", "roles": ["Bookings.Manage.All"]},
        {"scp": "", "roles": ["Bookings.Manage.All"]},
        {"scp": None, "idtyp": "user", "roles": ["Bookings.Manage.All"]},
        {"scp": None, "idtyp": ["app"], "roles": ["Bookings.Manage.All"]},
    ],
)
def test_a_valid_token_without_a_permission_is_denied_everything(
    anonymous: httpx.Client, issuer: Issuer, claims: dict[str, Any]
) -> None:
    token = issuer.token(claims)
    assert_error(add(anonymous, f"Bearer {token}"), 403, "accessDenied", says="Bookings")
    assert_error(get(anonymous, token), 403, "accessDenied", says="Bookings.Read.All")


def test_roles_count_in_a_token_of_an_application(anonymous: httpx.Client, issuer: Issuer) -> None:
    claims = {"scp": None, "idtyp": "app", "roles": ["Bookings.Manage.All"]}
    assert_customer(add(anonymous, f"Bearer {issuer.token(claims)}"))


@pytest.mark.parametrize("claims", [{"azp": None}, {"azp": ""}, {"azp": 5}, {"azp": None, "appid": ["x"]}, {"oid": 5}])
def test_a_token_that_names_no_client_is_refused(
    anonymous: httpx.Client, issuer: Issuer, claims: dict[str, Any]
) -> None:
    response = add(anonymous, f"Bearer {issuer.token(claims)}")
    assert_error(response, 401, "InvalidAuthenticationToken", says="client application")


@pytest.mark.parametrize("acct", [1, "1"])
def test_guests_are_denied_unless_the_settings_allow_them(
    anonymous: httpx.Client, issuer: Issuer, start_service: StartService, acct: object
) -> None:
    token = f"Bearer {issuer.token({'acct': acct})}"
    assert_error(add(anonymous, token), 403, "accessDenied", says="guests")
    assert_customer(add(anonymous, f"Bearer {issuer.token({'acct': 0})}"))
    with start_service(ALLOW_GUESTS="true") as service, httpx.Client(base_url=service.base) as client:
        assert_customer(add(client, token))


@pytest.mark.parametrize("iss", [f"{AUTHORITY}/{PERSONAL}/v2.0", f"{AUTHORITY}/{TENANT}/v2.0"])
def test_personal_accounts_are_denied(anonymous: httpx.Client, issuer: Issuer, iss: str) -> None:
    response = add(anonymous, f"Bearer {issuer.token({'tid': PERSONAL, 'iss': iss})}")
    assert_error(response, 403, "accessDenied", says="personal")


def test_the_token_is_checked_before_the_request(anonymous: httpx.Client, issuer: Issuer) -> None:
    bad = {"content": b"x", "headers": {"Authorization": f"Bearer {issuer.token({'scp': None})}"}}
    assert_error(anonymous.post(f"{COLLECTION}?x=1", content=b"x"), 401, "InvalidAuthenticationToken")
    assert_error(anonymous.post(f"{COLLECTION}?x=1", **bad), 403, "accessDenied")  # type: ignore[arg-type]


def test_a_token_is_never_shown(service: Service, anonymous: httpx.Client, issuer: Issuer) -> None:
    token = issuer.token({"aud": "api://another"})
    response = add(anonymous, f"Bearer {token}")
    signature = token.split(".")[2]
    assert service.lines(response.headers["request-id"])
    assert signature not in response.text + str(response.headers) + service.log.read_text()


@pytest.fixture
def unstarted(portal: BlockingPortal) -> Iterator[tuple[Issuer, int, Any]]:
    """An issuer that is down, its port, and what publishes it there."""
    issuer, port, runners = Issuer(new_key()), free_port(), []

    def publish() -> None:
        runner, _ = portal.call(issuer.serve, port)
        runners.append(runner)

    yield issuer, port, publish
    for runner in runners:
        portal.call(runner.cleanup)


def test_without_keys_nothing_passes_and_the_service_recovers(
    start_service: StartService, unstarted: tuple[Issuer, int, Any]
) -> None:
    issuer, port, publish = unstarted
    url = f"http://127.0.0.1:{port}/{TENANT}/v2.0/.well-known/openid-configuration"
    with start_service(TOKEN_METADATA_URL=url) as service, httpx.Client(base_url=service.base) as client:
        for _ in range(3):
            assert_error(add(client, f"Bearer {issuer.token()}"), 503, "serviceUnavailable", says="keys")
        publish()
        deadline = time.monotonic() + 10
        while (response := add(client, f"Bearer {issuer.token()}")).status_code == 503:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert_customer(response)


def test_cached_keys_outlive_the_issuer_and_a_rotated_key_is_found(
    start_service: StartService, publish_issuer: PublishIssuer
) -> None:
    with publish_issuer() as published:
        issuer = published.issuer
        with (
            start_service(TOKEN_METADATA_URL=published.metadata_url) as service,
            httpx.Client(base_url=service.base) as client,
        ):
            old = issuer.token()
            assert_customer(add(client, f"Bearer {old}"))
            issuer.rotate(new_key())
            assert_customer(add(client, f"Bearer {issuer.token()}"))
            # The old key is no longer published; to look for it again must wait.
            assert_error(add(client, f"Bearer {old}"), 401, "InvalidAuthenticationToken")
            token = issuer.token()
            published.stop()
            assert_customer(add(client, f"Bearer {token}"))
