"""The settings: what is needed, what is refused, and that a value is never shown."""

import json
from pathlib import Path

import pytest

from customers.settings import Settings, SettingsError
from infra.local.run import app_settings

TENANT = "7d3b1c52-4f0e-4b8a-9c61-0f2a5e8d9b34"
AZURITE = "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=c2VjcmV0;TableEndpoint=http://127.0.0.1:10002/a;"
DEPLOYED = {
    "CUSTOMERS_STORAGE__tableServiceUri": "https://account.table.core.windows.net",
    "TOKEN_TENANT_ID": TENANT,
    "TOKEN_AUDIENCE": "api://x, 3f0c8a1e-6d7b-4f52-9a35-c2e1d4b7a860",
}
LOCAL = {"CUSTOMERS_STORAGE": AZURITE, "TOKEN_TENANT_ID": TENANT, "TOKEN_AUDIENCE": "api://x"}


def test_a_deployed_service_needs_three_settings() -> None:
    settings = Settings.from_environment(DEPLOYED)
    assert settings.audiences == ("api://x", "3f0c8a1e-6d7b-4f52-9a35-c2e1d4b7a860")
    assert settings.budget == 10
    assert settings.metadata_url == (
        f"https://login.microsoftonline.com/{TENANT}/v2.0/.well-known/openid-configuration"
    )


def test_the_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.from_environment(DEPLOYED).budget = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", ["TOKEN_TENANT_ID", "TOKEN_AUDIENCE"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_or_empty_setting_is_named(name: str, *, empty: bool) -> None:
    environ = {**DEPLOYED, name: ""} if empty else {k: v for k, v in DEPLOYED.items() if k != name}
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment(environ)


def test_one_error_names_every_invalid_setting() -> None:
    with pytest.raises(SettingsError, match=r"TOKEN_TENANT_ID.*TOKEN_AUDIENCE"):
        Settings.from_environment({"CUSTOMERS_STORAGE": "UseDevelopmentStorage=true"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKEN_TENANT_ID", "contoso"),
        ("TOKEN_AUDIENCE", " , "),
        ("TOKEN_AUTHORITY", "http://login.example.com"),
        ("TOKEN_AUTHORITY", "nonsense"),
        ("TOKEN_METADATA_URL", "http://login.example.com/x"),
        ("TOKEN_METADATA_URL", "file:///etc/passwd"),
        ("CUSTOMERS_STORAGE__tableServiceUri", "http://account.table.core.windows.net"),
        ("CUSTOMERS_STORAGE__clientId", "nonsense"),
        ("CUSTOMERS_TABLE", "a-b"),
        ("STORAGE_BUDGET", "0"),
        ("STORAGE_BUDGET", "ten"),
        ("STORAGE_CONNECT_TIMEOUT", "-1"),
        ("STORAGE_READ_TIMEOUT", "nan"),
        ("EMAIL_ADDRESS_CHECK", "yes"),
        ("BUSINESS_ACCESS", "none"),
        ("BODY_LIMIT", "1"),
    ],
)
def test_a_malformed_setting_is_named_and_its_value_not_shown(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name) as caught:
        Settings.from_environment({**DEPLOYED, name: value})
    assert "nonsense" not in str(caught.value)


@pytest.mark.parametrize(
    "storage",
    [
        "nonsense",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=c2VjcmV0;EndpointSuffix=core.windows.net",
        "AccountName=a;AccountKey=c2VjcmV0;TableEndpoint=https://a.table.core.windows.net",
        "AccountName=a;AccountKey=c2VjcmV0;TableEndpoint=http://localhost:20002/a",
        "AccountName=a;AccountKey=c2VjcmV0;TableEndpoint=http://a.table.core.windows.net",
    ],
)
def test_a_connection_string_is_for_azurite_only(storage: str) -> None:
    with pytest.raises(SettingsError, match="CUSTOMERS_STORAGE") as caught:
        Settings.from_environment({**LOCAL, "CUSTOMERS_STORAGE": storage})
    assert "c2VjcmV0" not in str(caught.value)


@pytest.mark.parametrize(
    "environ", [{**LOCAL, **DEPLOYED}, {k: v for k, v in LOCAL.items() if k != "CUSTOMERS_STORAGE"}]
)
def test_one_storage_is_needed_and_no_more(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="CUSTOMERS_STORAGE__tableServiceUri"):
        Settings.from_environment(environ)


@pytest.mark.parametrize("local", [LOCAL, {**DEPLOYED, "TOKEN_METADATA_URL": "http://127.0.0.1:7072/x"}])
@pytest.mark.parametrize("sign", ["WEBSITE_INSTANCE_ID", "WEBSITE_SKU", "WEBSITE_POD_NAME", "LEGION_SERVICE_HOST"])
def test_the_local_issuer_and_storage_are_refused_in_azure(local: dict[str, str], sign: str) -> None:
    Settings.from_environment(local)
    with pytest.raises(SettingsError, match="for local use"):
        Settings.from_environment({**local, sign: "1"})


def test_the_connection_string_is_not_in_the_repr() -> None:
    assert "c2VjcmV0" not in repr(Settings.from_environment(LOCAL))


def test_the_template_of_the_local_settings_agrees_with_the_local_start() -> None:
    values = json.loads(Path("infra/local/local.settings.json").read_text())["Values"]
    expected = app_settings(storage="UseDevelopmentStorage=true", metadata_url=values["TOKEN_METADATA_URL"])
    assert expected.items() <= {**values, "CUSTOMERS_TABLE": "customers"}.items()
    Settings.from_environment(values)
