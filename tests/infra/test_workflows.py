"""What the workflows on GitHub may fetch and keep."""

import re
from pathlib import Path

import pytest

WORKFLOWS = sorted(Path(".github/workflows").glob("*.yml"))


def steps(workflow: Path) -> list[str]:
    """The steps of a workflow that run an action, as text."""
    return [step for step in re.split(r"(?m)^ +- (?=\w+:)", workflow.read_text()) if step.startswith("uses:")]


def test_there_are_workflows() -> None:
    assert all(steps(workflow) for workflow in WORKFLOWS)
    assert len(WORKFLOWS) >= 2


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.name)
def test_every_action_is_pinned_by_its_commit(workflow: Path) -> None:
    used = [line for line in workflow.read_text().splitlines() if "uses:" in line]
    assert [line for line in used if not re.search(r"uses: \S+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.name)
def test_no_checkout_leaves_a_token_behind(workflow: Path) -> None:
    checkouts = [step for step in steps(workflow) if step.startswith("uses: actions/checkout@")]
    assert [step for step in checkouts if "persist-credentials: false" not in step] == []


def test_a_deployment_waits_for_a_protected_environment() -> None:
    text = Path(".github/workflows/deploy.yml").read_text()
    assert "needs: protected" in text
    assert "protection_rules" in text
