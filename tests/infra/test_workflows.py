"""What the workflows on GitHub may fetch and keep."""

import re
from pathlib import Path

import pytest

DEPLOY = Path(".github/workflows/deploy.yml")
WORKFLOWS = sorted(Path(".github/workflows").glob("*.yml"))


def steps(workflow: Path) -> list[str]:
    """The steps of a workflow that run an action, as text."""
    return [step for step in all_steps(workflow) if re.search(r"(?m)^ *uses:", step)]


def all_steps(workflow: Path) -> list[str]:
    """The steps of a workflow, in their order, as text."""
    return re.split(r"(?m)^ +- (?=\w+:)", workflow.read_text())[1:]


def test_there_are_workflows() -> None:
    assert all(steps(workflow) for workflow in WORKFLOWS)
    assert len(WORKFLOWS) >= 2


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.name)
def test_every_action_is_pinned_by_its_commit(workflow: Path) -> None:
    used = [line for line in workflow.read_text().splitlines() if "uses:" in line]
    assert [line for line in used if not re.search(r"uses: \S+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.name)
def test_no_checkout_leaves_a_token_behind(workflow: Path) -> None:
    checkouts = [step for step in steps(workflow) if "uses: actions/checkout@" in step]
    assert [step for step in checkouts if "persist-credentials: false" not in step] == []


def test_a_deployment_waits_for_a_protected_environment() -> None:
    text = DEPLOY.read_text()
    assert "needs: protected" in text
    assert "protection_rules" in text


def test_a_deployment_shows_first_what_will_change() -> None:
    text = DEPLOY.read_text()
    assert 0 < text.index("azd provision --preview") < text.index("azd up")


def test_a_rehearsal_is_optional_deploys_twice_tries_the_service_and_leaves_nothing_behind() -> None:
    named = {step.splitlines()[0].removeprefix("name: "): step for step in all_steps(DEPLOY)}
    again, down = named["Deploy again, with a changed parameter"], named["Take it down"]
    assert "if: github.event_name == 'schedule'" in again
    assert "REQUESTS_PER_INSTANCE=$((REQUESTS_PER_INSTANCE + 1)) azd up" in again
    assert "if: always() && github.event_name == 'schedule'" in down
    assert "azd down --force --purge" in down
    order = [name for name in named if name in {"Deploy", "Try it"} or named[name] in {again, down}]
    assert order == ["Deploy", "Deploy again, with a changed parameter", "Try it", "Take it down"]
    text = DEPLOY.read_text()
    assert "    if: ${{ inputs.environment || vars.REHEARSAL_ENVIRONMENT }}\n" in text
    # Never the resources of a deployment that somebody uses.
    assert "AZURE_ENV_NAME: ${{ inputs.environment || format('rehearsal-{0}', github.run_id) }}" in text
