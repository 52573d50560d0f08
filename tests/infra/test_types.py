"""Every resource in infra/ is held against Azure's types: its type and version, its properties and their values.

The types come from ``azmcp``, which needs no network; ``make test-infra`` installs it, and only that runs this file.
It knows the newest stable API version of each type. Some types it can only name: types.json has those, written from the
published ones, where ``!`` marks a required property. A type with its version is one whose newest version is a preview.
"""

import json
import os
import re
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.bicep import Property, Template, Types, check_resource

AZMCP = Path(".local/azmcp/bin/azmcp")
RECORDED = Path(__file__).with_name("types.json")
INFRA = Path("infra")
RESOURCES = [
    resource for path in sorted(INFRA.glob("*.bicep")) for resource in Template(path).of_kind("resource").values()
]


def ask(resource_type: str) -> Types:
    """What may be written for a resource type, and for all that it holds."""
    asked = subprocess.run(  # noqa: S603
        [AZMCP, "bicepschema", "get", "--resource-type", resource_type],
        env={**os.environ, "AZURE_MCP_COLLECT_TELEMETRY": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    answer = json.loads(asked.stdout)
    if answer["status"] == 200:
        return {item["name"]: _properties(item) for item in answer["results"]["BicepSchemaResult"]}
    named = re.search(r"with apiVersion (\S+) not supported", answer["message"])
    assert named, answer["message"]
    recorded = {
        name: {key.rstrip("!"): Property(value, required=key.endswith("!")) for key, value in properties.items()}
        for name, properties in json.loads(RECORDED.read_text()).items()
    }
    if resource_type in recorded:
        recorded[f"{resource_type}@{named[1]}"] = recorded[resource_type]
    return recorded


def _properties(item: dict[str, Any]) -> dict[str, Property]:
    holder = item.get("bodyType", item)
    properties: dict[str, Property] = {}
    # A type that depends on a name ("ftp" or "scm") is told once for each.
    for variant in holder.get("elements", [holder]):
        for one in variant.get("properties", []):
            flags = one.get("flags", "")
            told = properties.get(one["name"])
            choices = one["type"] if told is None or told.type == one["type"] else f"{told.type} | {one['type']}"
            properties[one["name"]] = Property(choices, required="Required" in flags, read_only="ReadOnly" in flags)
    if "additionalPropertiesType" in holder:
        properties["*"] = Property(holder["additionalPropertiesType"])
    return properties


@pytest.fixture(scope="module")
def types() -> Mapping[str, Types]:
    """The types, by the name of the resource type."""
    names = sorted({resource.of.partition("@")[0] for resource in RESOURCES})
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(names, pool.map(ask, names), strict=True))


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: f"{resource.name} {resource.of}")
def test_a_resource_is_as_its_type_demands(resource: Any, types: Mapping[str, Types]) -> None:
    known = types[resource.of.partition("@")[0]]
    if resource.is_existing:
        assert resource.of in known
    else:
        assert check_resource(resource, known) == []


@pytest.mark.parametrize(
    ("file", "right", "wrong", "problem"),
    [
        (
            "storage",
            "allowSharedKeyAccess:",
            "allowSharedKeyAcess:",
            "account.properties.allowSharedKeyAcess: there is",
        ),
        ("storage", "'TLS1_2'", "'TLS12'", "account.properties.minimumTlsVersion: 'TLS12' is not TLS1_0 | TLS1_1"),
        ("storage", "storageAccounts@2025-01-01", "storageAccounts@2025-01-02", "account: no type Microsoft.Storage"),
        ("storage", "  kind: 'StorageV2'\n", "", "account.kind: missing"),
        (
            "storage",
            "enabled: true, days: 7",
            "enabled: 'yes', days: 7",
            "deleteRetentionPolicy.enabled: 'yes' is not bool",
        ),
        ("function", "httpsOnly:", "httpOnly:", "app.properties.httpOnly: there is no such property"),
        ("function", "'blobContainer'", "'container'", "deployment.storage.type: 'container' is not blobContainer"),
        ("function", "name: 'ftp'", "name: 'ftps'", "ftp.name: 'ftps' is not ftp | scm"),
        ("function", "type: 'UserAssigned'\n", "type: 'Assigned'\n", "app.identity.type: 'Assigned' is not"),
        (
            "function",
            "name: 'http', instanceCount",
            "name: 'http', count",
            "alwaysReady.count: there is no such property",
        ),
        ("monitoring", "DisableLocalAuth:", "disableLocalAuth:", "telemetry.properties.disableLocalAuth: there is no"),
        ("alerts", "timeAggregation: 'Maximum'", "timeAggregation: 'Max'", "timeAggregation: 'Max' is not Average"),
        ("alerts", "severity: 2\n    enabled: true\n", "enabled: true\n", "throttling.properties.severity: missing"),
        (
            "network",
            "addressPrefix: '10.0.0.0/25'",
            "addressPrefix: ['10.0.0.0/25']",
            "addressPrefix: ['10.0.0.0/25'] is not",
        ),
        ("endpoints", "privateDnsZones@2024-06-01", "privateDnsZones@2020-06-01", "zones: no type Microsoft.Network"),
    ],
)
def test_a_mistake_is_found(
    tmp_path: Path, types: Mapping[str, Types], file: str, right: str, wrong: str, problem: str
) -> None:
    text = (INFRA / f"{file}.bicep").read_text()
    assert right in text
    path = tmp_path / "mistaken.bicep"
    path.write_text(text.replace(right, wrong, 1))
    found = [
        found
        for resource in Template(path).resources()
        for found in check_resource(resource, types[resource.of.partition("@")[0]])
    ]
    assert len(found) == 1
    assert problem in found[0]
