"""The queries in infra/queries are Kusto's language, and ask for columns that there are.

Nothing else would say so: alerts are deployed without a look at their queries, because the tables come later. Kusto's
own parser says it, which ``make test-infra`` installs.
"""

import json
import subprocess
from pathlib import Path

# Of Application Insights' tables, the columns that the queries may use (Azure Monitor Logs reference).
_COMMON = "TimeGenerated: datetime, Type: string, OperationId: string, AppRoleInstance: string, Properties: dynamic"
TABLES = {
    "AppTraces": f"{_COMMON}, Message: string, SeverityLevel: int",
    "AppExceptions": f"{_COMMON}, OuterMessage: string, InnermostMessage: string, Details: dynamic, SeverityLevel: int",
    "AppRequests": f"{_COMMON}, Name: string, ResultCode: string, DurationMs: real, Success: bool",
}
QUERIES = {path.name: path.read_text() for path in sorted(Path("infra/queries").iterdir())}


def problems(queries: dict[str, str]) -> dict[str, list[str]]:
    """What the parser says of queries."""
    tables = "".join(f"let {name} = datatable({columns}) [];\n" for name, columns in TABLES.items())
    ended = subprocess.run(
        ["node", "tests/infra/queries.js"],  # noqa: S607
        input=json.dumps({name: tables + query for name, query in queries.items()}),
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, list[str]] = json.loads(ended.stdout)
    return found


# In which query, what is right, the mistake, and what is said of it.
MISTAKES = [
    ("adds.kql", "| summarize", "| summarise", "Query operator expected"),
    ("slow.kql", "percentile(milliseconds, 99)", "percentile(miliseconds, 99)", "'miliseconds' does not refer"),
    ("failed.kql", "ResultCode", "StatusCode", "'StatusCode' does not refer"),
    ("requests.kql", "countif(status >= 500)", "countwhen(status >= 500)", "'countwhen' does not refer"),
    ("too_long.kql", "AppExceptions", "AppException", "'AppException' does not refer"),
]


def test_the_queries_have_no_mistake() -> None:
    assert QUERIES
    assert problems(QUERIES) == {name: [] for name in QUERIES}


def test_a_mistake_is_found() -> None:
    assert [mistake for mistake in MISTAKES if mistake[1] not in QUERIES[mistake[0]]] == []
    found = problems({query: QUERIES[query].replace(right, wrong) for query, right, wrong, _ in MISTAKES})
    assert [(query, said) for query, *_, said in MISTAKES if not any(said in one for one in found[query])] == []
