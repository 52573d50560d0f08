"""What host.json lets into the logs: the app's lines and every failure, not the host's two lines for each request."""

import json
import re
from pathlib import Path

import pytest

HOST = json.loads(Path("host.json").read_text())
SEVERITY = ["Trace", "Debug", "Information", "Warning", "Error", "Critical"]


def level(category: str) -> str:
    """The least level of a category that is logged: the rule with the longest name decides (ASP.NET Core, Logging)."""
    levels: dict[str, str] = HOST["logging"]["logLevel"]
    fitting = [
        name
        for name in levels
        if name != "default" and re.match(re.escape(name).replace(r"\*", ".*"), category, re.IGNORECASE)
    ]
    return levels[max(fitting, key=len, default="default")]


@pytest.mark.parametrize(
    ("category", "severity", "kept"),
    [
        ("Function.beta_root_customers.User", "Information", True),  # the app's line of a request
        ("Function.beta_root_customers.User", "Error", True),  # its trace of a fault of its own
        ("Function.beta_root_customers", "Information", False),  # Executing and Executed
        ("Function.beta_root_customers", "Error", True),  # an invocation that failed: AppExceptions
        ("Host.Results", "Information", True),  # AppRequests, by which the alert counts failures
        ("Host.Startup", "Information", True),
        ("Azure.Core", "Information", False),
        ("Azure.Core", "Warning", True),
    ],
)
def test_what_is_logged(category: str, severity: str, *, kept: bool) -> None:
    assert (SEVERITY.index(severity) >= SEVERITY.index(level(category))) is kept


def test_the_levels_are_these_and_nothing_that_the_queries_read_is_sampled() -> None:
    assert HOST["logging"] == {
        "logLevel": {
            "default": "Information",
            "Azure": "Warning",
            "Function": "Warning",
            "Function.*.User": "Information",
        },
        "applicationInsights": {
            "samplingSettings": {"isEnabled": True, "excludedTypes": "Request;Exception;Trace"},
        },
    }
    read = {name for query in Path("infra/queries").iterdir() for name in re.findall(r"App\w+", query.read_text())}
    read.discard("AppRoleInstance")  # a column
    assert read <= {"AppRequests", "AppExceptions", "AppTraces"}
