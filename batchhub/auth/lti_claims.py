"""The message inside an ID token of LTI 1.3: whether it is a launch of a resource link that concerns this hub, and what it says. Pure.

The token itself was checked before (:mod:`batchhub.auth.id_tokens`). What a resource link's launch must hold is pylti1p3's to say; it takes the
kinds of the claims for granted, so those are looked at first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pylti1p3.exception import LtiException
from pylti1p3.message_validators.resource_message import ResourceMessageValidator

from batchhub.auth.id_tokens import BadToken
from batchhub.auth.lti_people import ID_LIMIT, Learner
from batchhub.auth.lti_tables import Platform

CLAIM = "https://purl.imsglobal.org/spec/lti/claim/"
LAUNCH = "LtiResourceLinkRequest"


class NotALaunch(Exception):
    """A genuine message of another kind: content selection, data privacy, a submission to review. ``str()`` is its kind."""


def read_message(claims: Mapping[str, Any], platform: Platform) -> tuple[Learner, str]:
    """Who comes, and the ``target_link_uri``. LTI Core 1.3 section 5.3. Raises BadToken, NotALaunch."""
    kind = claims.get(f"{CLAIM}message_type")
    deployment = claims.get(f"{CLAIM}deployment_id")
    if not isinstance(deployment, str) or deployment not in platform.deployment_ids:
        raise BadToken(f"deployment_id: {deployment!r:.200} is not one of this site's")
    if isinstance(kind, str) and kind and kind != LAUNCH:
        raise NotALaunch(kind)
    roles, target = claims.get(f"{CLAIM}roles"), claims.get(f"{CLAIM}target_link_uri")
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise BadToken("roles: missing, or not a list of texts")
    if not isinstance(target, str) or not target:
        raise BadToken("target_link_uri: missing")
    _table(claims, "resource_link")
    try:
        ResourceMessageValidator().validate(dict(claims))
    except LtiException as error:
        raise BadToken(f"the message is not whole: {error}") from error
    if kind != LAUNCH:
        raise BadToken("message_type: missing")
    learner = Learner(
        subject=str(claims["sub"]),
        course=_id(_table(claims, "context"), "context"),
        roles=tuple(roles),
        email=_email(claims),
        sourcedid=_said(_table(claims, "lis").get("person_sourcedid")),
        person=_said(claims.get("name")),
        custom=_table(claims, "custom"),
    )
    return learner, target


def _table(claims: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A claim that is an object; an empty one where there is none."""
    value = claims.get(CLAIM + name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadToken(f"{name}: not an object")
    return value


def _id(table: Mapping[str, Any], name: str) -> str:
    if not table:
        return ""
    value = table.get("id")
    if not isinstance(value, str) or not 0 < len(value) <= ID_LIMIT:
        raise BadToken(f"{name}: without an id")
    return value


def _email(claims: Mapping[str, Any]) -> str:
    """Not one that the platform itself says is unverified; LTI has no claim that says the contrary, so the site does (``trusts_email``)."""
    return _said(claims.get("email")) if claims.get("email_verified", True) is True else ""


def _said(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= ID_LIMIT else ""
