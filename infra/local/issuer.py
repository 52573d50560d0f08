"""A token issuer for development, in the place of Microsoft Entra ID: discovery, keys, and tokens signed with its key.

The key is created on first use and kept in ``.local/``, which git ignores. No deployed service accepts its tokens: it
trusts the keys that https://login.microsoftonline.com publishes, and no http:// address for them.

Usage: ``python -m infra.local.issuer token`` prints a token. The variable CLAIMS, a JSON object, replaces default
claims; a null removes one. The token is an application's own, unless CLAIMS has ``scp``: then it acts for a user.
"""

import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

AUTHORITY = "https://issuer.invalid"
"""No such host can exist (RFC 2606), so no deployed service can be configured to trust this issuer."""
TENANT = "7d3b1c52-4f0e-4b8a-9c61-0f2a5e8d9b34"
AUDIENCE = "api://booking-customers"
USER = "b7e2a9d4-51c6-4e3f-8a07-6d9c1f4e2b85"
"""The object id of the user for whom a token with ``scp`` acts."""
APPLICATION = "5c8d2b60-97ef-4a13-b1c4-e03f6a7d8295"
"""The object id of the application whose own token any other is."""
LIFETIME = 8 * 3600

type _Key = rsa.RSAPrivateKey


def new_key() -> _Key:
    """Create a signing key."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def load_key(path: Path) -> _Key:
    """Read the signing key, or create it on first use, readable by its owner only."""
    if not path.exists():
        pem = new_key().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_bytes(pem)
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # another process was first
        finally:
            draft.unlink()
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError(f"{path} holds no RSA key")
    return key


class Issuer:
    """Publishes keys and signs tokens with the newest."""

    def __init__(self, key: _Key) -> None:
        self._keys: dict[str, _Key] = {}
        self.rotate(key)

    def rotate(self, key: _Key) -> None:
        """Replace the signing key, and publish only the new one."""
        numbers = key.public_key().public_numbers()
        self._keys = {f"{numbers.n % (1 << 80):020x}": key}

    @property
    def kid(self) -> str:
        """The name of the key that signs."""
        return next(iter(self._keys))

    def token(self, claims: dict[str, Any] | None = None, *, headers: dict[str, Any] | None = None) -> str:
        """Sign a token with the default claims, good for every operation, and ``claims`` merged over them.

        The default claims are an application's own, which reaches every business; or a user's, if ``claims`` has
        ``scp``, even a null one.
        """
        now = int(time.time())
        own = (
            {"oid": USER}
            if "scp" in (claims or {})
            else {"oid": APPLICATION, "idtyp": "app", "roles": ["Bookings.Manage.All"]}
        )
        merged: dict[str, Any] = {
            "iss": f"{AUTHORITY}/{TENANT}/v2.0",
            "aud": AUDIENCE,
            "tid": TENANT,
            "azp": "3f0c8a1e-6d7b-4f52-9a35-c2e1d4b7a860",
            "sub": str(uuid.uuid5(uuid.NAMESPACE_URL, AUDIENCE)),
            "ver": "2.0",
            "iat": now,
            "nbf": now,
            "exp": now + LIFETIME,
            **own,
            **(claims or {}),
        }
        present = {name: value for name, value in merged.items() if value is not None}
        # Signed as bytes, so that tests can use claims that the library would refuse.
        return jwt.PyJWS().encode(
            json.dumps(present).encode(),
            self._keys[self.kid],
            algorithm="RS256",
            headers={"kid": self.kid, **(headers or {})},
        )

    def public_keys(self) -> dict[str, Any]:
        """The published keys (RFC 7517, 5)."""
        return {
            "keys": [
                {
                    **jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True),
                    "use": "sig",
                    "kid": kid,
                    "alg": "RS256",
                }
                for kid, key in self._keys.items()
            ]
        }

    async def serve(self, port: int = 0) -> tuple[web.AppRunner, str]:
        """Publish on 127.0.0.1; return what stops that, and the URL of the metadata."""
        app = web.Application()
        runner = web.AppRunner(app, access_log=None)

        async def metadata(request: web.Request) -> web.Response:
            return web.json_response(
                {
                    "issuer": f"{AUTHORITY}/{TENANT}/v2.0",
                    "jwks_uri": f"http://{request.host}/{TENANT}/discovery/v2.0/keys",
                    "id_token_signing_alg_values_supported": ["RS256"],
                }
            )

        async def keys(_: web.Request) -> web.Response:
            return web.json_response(self.public_keys())

        path = f"/{TENANT}/v2.0/.well-known/openid-configuration"
        app.router.add_get(path, metadata)
        app.router.add_get(f"/{TENANT}/discovery/v2.0/keys", keys)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}{path}"


KEY_PATH = Path(".local/issuer/key.pem")


def main() -> int:
    """Print a token, alone on stdout. Returns 2, after one line on stderr, if CLAIMS is not a JSON object."""
    try:
        claims = json.loads(os.environ.get("CLAIMS") or "{}")
    except ValueError as error:
        print(f"CLAIMS must be JSON: {error}", file=sys.stderr)
        return 2
    if not isinstance(claims, dict):
        print('CLAIMS must be a JSON object such as {"scp": "Bookings.Read.All"}', file=sys.stderr)
        return 2
    print(Issuer(load_key(KEY_PATH)).token(claims))
    return 0


if __name__ == "__main__":
    sys.exit(main())
