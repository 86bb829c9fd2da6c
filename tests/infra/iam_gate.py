"""A gate before an S3 server that lets through what an IAM policy allows, and nothing else.

Each request is named by the action and the resource that AWS checks for it (Service Authorization
Reference, Amazon S3). A request that has no name here is refused. What was asked for is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fault_proxy import Fault, FaultProxy

UNKNOWN = "s3:?"


@dataclass(frozen=True)
class Asked:
    """One request as a policy sees it."""

    action: str
    resource: str


def asked(method: str, target: str) -> Asked:
    """What a request asks for."""
    parts = urlsplit(target)
    bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
    query = parse_qs(parts.query, keep_blank_values=True)
    arn = f"arn:aws:s3:::{bucket}"
    if not key:
        if method == "GET" and "uploads" in query:
            return Asked("s3:ListBucketMultipartUploads", arn)
        if method == "GET" and query.get("list-type") == ["2"]:
            return Asked("s3:ListBucket", arn)
        return Asked(UNKNOWN, arn)
    actions = {
        "GET": "s3:GetObject",
        "HEAD": "s3:GetObject",
        "PUT": "s3:PutObject",
        "POST": "s3:PutObject" if {"uploads", "uploadId"} & set(query) else UNKNOWN,
        "DELETE": "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject",
    }
    if {"acl", "tagging", "retention", "versionId", "attributes"} & set(query):
        return Asked(UNKNOWN, f"{arn}/{key}")
    return Asked(actions.get(method, UNKNOWN), f"{arn}/{key}")


def allows(statement: dict[str, Any], wanted: Asked) -> bool:
    """Whether one statement of a policy, all of whose parts are `Allow` and lists, allows it."""
    if statement["Effect"] != "Allow" or "Condition" in statement:
        raise ValueError(f"this gate only knows unconditional rights; got {statement}")
    is_there = any(fnmatchcase(wanted.resource, pattern) for pattern in statement["Resource"])
    return is_there and wanted.action in statement["Action"]


class IamGate(FaultProxy):
    """Listens on loopback; `env()` of a server with this URL leads every client through it.

    Attributes:
        used: the statements' ids and the actions that let a request through.
        refused: what was asked for and is not allowed.
    """

    def __init__(self, upstream_port: int, policy: dict[str, Any]) -> None:
        super().__init__(upstream_port)
        self._policy = policy
        self.used: set[tuple[str, str]] = set()
        self.refused: set[Asked] = set()

    def _fault_for(self, method: str, path: str) -> Fault | None:
        wanted = asked(method, path)
        allowing = [one for one in self._policy["Statement"] if allows(one, wanted)]
        self.used |= {(statement["Sid"], wanted.action) for statement in allowing}
        if allowing:
            return None
        self.refused.add(wanted)
        return Fault("denied")
