"""Which automations watch over flow runs of stylefarm, and how do they get into a Prefect server?

They are the files of `infra/automations`, in the format of `prefect automation create --from-file`.
Whatever is written again is updated, and stays disabled where somebody has disabled it.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import yaml

from flows.prefect_writing import prefect_client
from flows.terminal import Terminal
from manifests.errors import JobError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import BlockDocument
    from prefect.events.schemas.automations import Automation

MADE, UPDATED = "made", "updated"

_NOTIFICATION, _WEBHOOK = "send-notification", "call-webhook"


class Told(NamedTuple):
    """Who is notified: a block, and the kind of action that its type asks for."""

    block_id: UUID
    action: str


class Written(NamedTuple):
    """What became of an automation; `outcome` is None where it was not made."""

    name: str
    description: str
    outcome: str | None


def show_automations(terminal: Terminal, notify: str | None) -> None:
    """Makes or updates all automations, and says which.

    Args:
        terminal: what it is said on.
        notify: the block that is notified, as `TYPE/NAME`; without one, automations that notify
            are updated where they are there, and are not made.

    Raises:
        JobError: there is no such block, or nobody can be notified through it.
        PrefectUnavailable: see `prefect_client`.
    """
    with prefect_client() as client:
        told = None if notify is None else _told_through(client, notify)
        written = [write_automation(client, content, told) for content in contents().values()]
    terminal.say_table(
        ("automation", "", "what it does"),
        [(one.name, one.outcome or "not made", one.description) for one in written],
    )
    if any(one.outcome is None for one in written):
        terminal.say(
            "What is not made needs somebody to notify: make a notification block in Prefect's "
            "pages, under Blocks, such as Slack Webhook, and name it: "
            "stylefarm automations --notify slack-webhook/NAME"
        )


def write_watching(client: SyncPrefectClient) -> None:
    """Makes or updates those that notify nobody: they mark flow runs that are gone as crashed.

    Deployments rely on them: else such a flow run keeps its place in its work queue for ever.
    """
    for content in contents().values():
        if not any(map(_notifies, content["actions"])):
            write_automation(client, content)


def contents() -> dict[str, dict[str, Any]]:
    """What the files of `infra/automations` hold, by the names of the automations."""
    folder = resources.files("infra") / "automations"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    found = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    return {content["name"]: content for content in found}


def write_automation(
    client: SyncPrefectClient, content: dict[str, Any], told: Told | None = None
) -> Written:
    """Makes an automation, or updates those of its name.

    Args:
        client: of the server.
        content: what its file holds.
        told: who is notified; unless given, whoever is now.
    """
    from prefect.events.schemas.automations import AutomationCore

    name, description = content["name"], content["description"]
    found = client.read_automations_by_name(name)
    told = told or next(filter(None, map(_told_by, found)), None)
    if told is None and any(map(_notifies, content["actions"])):
        return Written(name, description, None)
    actions = [_notifying(action, told) if told else action for action in content["actions"]]
    for one in found:
        as_it_is = {**content, "actions": actions, "enabled": one.enabled}
        client.update_automation(one.id, AutomationCore.model_validate(as_it_is))
    if not found:
        client.create_automation(AutomationCore.model_validate({**content, "actions": actions}))
    return Written(name, description, UPDATED if found else MADE)


def _told_through(client: SyncPrefectClient, notify: str) -> Told:
    from prefect.exceptions import ObjectNotFound

    kind, _, name = notify.partition("/")
    if not kind or not name:
        raise JobError(f"--notify takes TYPE/NAME, such as slack-webhook/studio; got {notify!r}")
    try:
        block = client.read_block_document_by_name(name, kind, include_secrets=False)
    except ObjectNotFound:
        raise JobError(
            f"Prefect has no block {notify!r}: 'prefect block ls' lists those that it has; make "
            "one in its pages, under Blocks"
        ) from None
    return Told(block.id, _action_of(block, notify))


def _action_of(block: BlockDocument, notify: str) -> str:
    if block.block_schema is not None and "notify" in block.block_schema.capabilities:
        return _NOTIFICATION
    if notify.startswith("webhook/"):
        return _WEBHOOK
    raise JobError(
        f"nobody can be notified through the block {notify!r}: it is no notification block, such "
        "as slack-webhook/NAME or custom-webhook/NAME, and no webhook/NAME"
    )


def _told_by(automation: Automation) -> Told | None:
    """Who is notified by an automation that is there."""
    for action in automation.actions:
        if _notifies({"type": action.type}):
            return Told(action.block_document_id, action.type)  # type: ignore[union-attr]
    return None


def _notifies(action: dict[str, Any]) -> bool:
    return action["type"] in (_NOTIFICATION, _WEBHOOK)


def _notifying(action: dict[str, Any], told: Told) -> dict[str, Any]:
    """An action of a file, made to notify somebody; others as they are."""
    if not _notifies(action):
        return action
    if told.action == _NOTIFICATION:
        return {**action, "block_document_id": told.block_id}
    payload = f'{{"subject": {_as_json(action["subject"])}, "body": {_as_json(action["body"])}}}'
    return {"type": _WEBHOOK, "block_document_id": told.block_id, "payload": payload}


def _as_json(template: str) -> str:
    return f"{{% filter tojson %}}{template}{{% endfilter %}}"
