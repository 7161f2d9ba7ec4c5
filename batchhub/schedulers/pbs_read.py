"""The four forms in which PBS and Torque print records: JSON, delimiter-separated, folded text, XML. Text in, plain mappings out.

A record is a mapping of attribute name to text or to a mapping (``Resource_List``). Numbers stay the text that was printed: PBS
turns any value that looks like one into a number, job names included. What the attributes mean is left to
:mod:`batchhub.schedulers.pbs_jobs` and :mod:`batchhub.schedulers.pbs_site`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree as ET

from batchhub.core.errors import Unreachable
from batchhub.schedulers.base import note_bad_row

Record = Mapping[str, Any]
"""One job, queue or node: values are text, lists or mappings of the same kind."""

MAX_DOCUMENT = 64 * 1024 * 1024
_MAX_XML_RECORD = 1024 * 1024

# A string, or a bare word that is no JSON value: ``nan``, ``inf``, ``1.``, ``.5`` are what PBS up to 23.06 prints.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[^\s"{}\[\]:,]+')
_JSON_WORD = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")
_TEXT_MEMBER = re.compile(r'(\s*"(?:[^"\\]|\\.)*"\s*:\s*)"(.*)"(,?)\s*')
_OTHER_MEMBER = re.compile(r'\s*(?:"(?:[^"\\]|\\.)*"\s*:\s*)?(?:[^\s"{}\[\]]+|[{\[]|[}\]]|"(?:[^"\\]|\\.)*"),?\s*')
_HEAD = re.compile(r'(\s+)"(\d+(?:\[\d*\])?\.[^"\\\s]+)"\s*:\s*\{\s*')
_HEAD_WITHIN = re.compile(r'"\d+(?:\[\d*\])?\.[^"\\\s]+"\s*:\s*\{')
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_XML_JOB = re.compile(r"<(Job|Node)>(.*?)</\1>", re.DOTALL)
_XML_NAME = re.compile(r"<(?:Job_Id|name)>([^<>]{1,300})</")
_DSV_SPLIT = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class Records:
    """What one document holds, in its order; ``bad`` are records that could not be read, shortened."""

    found: Mapping[str, Record]
    bad: tuple[str, ...] = ()
    unread: frozenset[str] = frozenset()
    """The names of all of those that have one."""
    present: bool = True
    """Whether the document had the section at all: PBS prints the same skeleton for *no job* and *no server*."""


@dataclass(slots=True)
class _Gathered:
    """Records while they are being read. Two of one id mean that a value was taken for a record: neither is believed."""

    found: dict[str, Record] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    twice: set[str] = field(default_factory=set)
    unread: set[str] = field(default_factory=set)

    def add(self, name: str, record: Record | None) -> None:
        if record is None or name in self.found or name in self.twice:
            note_bad_row(self.bad, name)
            self.unread.add(name)
            if self.found.pop(name, None) is not None or name in self.twice:
                self.twice.add(name)
            return
        self.found[name] = record

    def close(self, *, present: bool = True) -> Records:
        return Records(self.found, tuple(self.bad), frozenset(self.unread), present)


# ---------------------------------------------------------------- JSON


def read_json(text: str, section: str) -> Records:
    """One section (``Jobs``, ``Queue``, ``nodes``, ``Server``) of a document of ``-F json``. Raises Unreachable.

    Tried in turn: the document as it is; with bare words quoted (``nan``, ``.5``: up to 23.06); record by record with raw quotes and
    backslashes escaped (19 and 20 print both as they are, so that one job's environment breaks the whole document).
    """
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start or len(text) > MAX_DOCUMENT:
        raise Unreachable("PBS printed no JSON document, or one that is too large to be read.")
    body = text[start : end + 1]
    document = _loads(body)
    if document is None:
        document = _loads(_quote_bare_words(body))
    if isinstance(document, dict):
        return _section(document, section)
    if section == "Jobs" and re.search(r"\n\}\s*$", body):
        recovered = _record_by_record(body)
        if recovered.found:
            return recovered
    raise Unreachable("PBS printed a JSON document that cannot be read.")


def _section(document: dict[str, Any], section: str) -> Records:
    gathered = _Gathered()
    members = document.get(section, {})
    if not isinstance(members, dict):
        raise Unreachable(f"PBS printed a JSON document whose {section} cannot be read.")
    for name, record in members.items():
        gathered.add(name, record if isinstance(record, dict) else None)
    return gathered.close(present=section in document)


def _loads(text: str) -> Any:
    try:
        return json.loads(
            text, strict=False, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_pairs
        )
    except (ValueError, RecursionError):
        return None


def _pairs(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The members of an object. Of two equal keys the last is kept (queue limits), but of two equal *records* or states neither.

    Where a piece of the document was lost, the head of one record goes on with the rest of another, and says its state twice.
    """
    members: dict[str, Any] = {}
    for key, value in pairs:
        both = key in members and (isinstance(value, dict) or key == "job_state")
        members[key] = None if both else value
    return members


def _quote_bare_words(text: str) -> str:
    def quote(found: re.Match[str]) -> str:
        word = found[0]
        return word if word[0] == '"' or _JSON_WORD.fullmatch(word) else json.dumps(word)

    return _TOKEN.sub(quote, text)


def _record_by_record(body: str) -> Records:
    """Read the jobs of a document that is broken as a whole, by its indentation."""
    gathered = _Gathered()
    name, indent, lines, whole = "", "", list[str](), True
    for line in body.splitlines():
        if not name:
            head = _HEAD.fullmatch(line)
            if head is not None and (not indent or head[1] == indent):
                indent, name, lines, whole = head[1], head[2], [], True
        elif line.rstrip().rstrip(",") == indent + "}":
            record = _loads(_quote_bare_words("{" + "\n".join(_mend(lines)) + "}"))
            gathered.add(name, record if isinstance(record, dict) and whole else None)
            name = ""
        else:
            # Another record's head inside this one: a value poses as it, or this record's end was lost.
            whole = whole and not _HEAD_WITHIN.search(line)
            lines.append(line)
    return gathered.close()


def _mend(lines: list[str]) -> list[str]:
    """The members of a record with raw text escaped; lines that are no member (a value's own newlines) are left out."""
    mended = []
    for line in lines:
        member = _TEXT_MEMBER.fullmatch(line)
        if member is not None:
            mended.append(f"{member[1]}{json.dumps(member[2])}{member[3]}")
        elif _OTHER_MEMBER.fullmatch(line):
            if mended and line.strip().startswith("}"):
                mended[-1] = mended[-1].rstrip().removesuffix(",")
            mended.append(line)
    if mended:
        mended[-1] = mended[-1].rstrip().removesuffix(",")
    return mended


# ---------------------------------------------------------------- text


def read_dsv(text: str, marker: str = "Job Id") -> Records:
    """The records of ``qstat -f -F dsv``: one line each, ``|`` between members, dotted names for resources."""
    gathered = _Gathered()
    for line in text.splitlines():
        if not line.strip():
            continue
        head, *members = _DSV_SPLIT.split(line)
        label, colon, name = head.partition(":")
        if label.strip() != marker or not colon or not name.strip():
            note_bad_row(gathered.bad, line)
            continue
        pairs = (member.partition("=") for member in members)
        gathered.add(name.strip(), _nested((key, value.replace("\\|", "|")) for key, _, value in pairs))
    return gathered.close()


def read_full_text(text: str, marker: str = "Job Id") -> Records:
    """The records of plain ``qstat -f`` (``marker`` ``Job Id``) and ``qstat -Q -f`` (``Queue``).

    Attributes are indented by four blanks; a line that begins with a TAB continues the one before, in the middle of a word.
    A line that is neither is a newline in somebody's value: it continues that value.
    """
    gathered = _Gathered()
    name, members = "", list[list[str]]()

    def finish() -> None:
        if name:
            gathered.add(name, _nested((key, value) for key, value in members))

    for line in text.splitlines():
        attribute = re.fullmatch(r" {2,8}([A-Za-z_][\w.-]*) = (.*)", line)
        if line.startswith(f"{marker}: "):
            finish()
            name, members = line.partition(": ")[2].strip(), []
        elif attribute is not None:
            members.append([attribute[1], attribute[2]])
        elif line.startswith("\t") and members:
            members[-1][1] += line[1:]
        elif line.strip() and members:
            members[-1][1] += "\n" + line
        elif line.strip():
            note_bad_row(gathered.bad, line)
    finish()
    return gathered.close()


def _nested(pairs: Iterable[tuple[str, str]]) -> Record:
    """``Resource_List.walltime`` becomes a member of a mapping, as in JSON."""
    record: dict[str, Any] = {}
    for key, value in pairs:
        group, dot, leaf = key.strip().partition(".")
        if not dot:
            record[group] = value
            continue
        inner = record.setdefault(group, {})
        if isinstance(inner, dict):
            inner[leaf] = value
    return record


# ---------------------------------------------------------------- XML, as Torque prints it


def read_xml(text: str, element: str = "Job", key: str = "Job_Id") -> Records:
    """The records of Torque's ``qstat -x`` (``Job``) and ``pbsnodes -x`` (``Node``). Raises Unreachable.

    A document that does not end is a server that died while it spoke. Document types and entities are refused (none is ever
    printed; their expansion could fill our memory), so are records over 1 MiB. Several documents may follow one another.
    """
    text = text.strip()
    if not text:
        return Records({}, present=False)
    if len(text) > MAX_DOCUMENT or re.search(r"<!(?:DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise Unreachable("Torque printed an XML document that is too large, or that defines entities.")
    whole = text.count("<Data>") == text.count("</Data>") > 0 and text.endswith("</Data>")
    if not whole or text.count(f"<{element}>") != text.count(f"</{element}>"):
        raise Unreachable("Torque printed an XML document that is not complete.")
    gathered = _Gathered()
    for chunk in _XML_JOB.finditer(_CONTROL.sub("?", text)):
        if chunk[1] == element:
            record = _element(chunk[0])
            name = record.get(key) if record else _XML_NAME.search(chunk[0])
            if isinstance(name, re.Match):
                name = name[1]
            known = isinstance(name, str) and name.strip()
            gathered.add(known or chunk[0][:300], record if known else None)
    return gathered.close()


def _element(text: str) -> Record | None:
    if len(text) > _MAX_XML_RECORD:
        return None
    try:
        root = ET.fromstring(text)  # noqa: S314 -- bounded, and no document type can be in it (read_xml)
    except ET.ParseError:
        return None
    record = {child.tag: _value(child) for child in root}
    return record if len(record) == len(root) else None  # an attribute twice: two records that ran into one


def _value(element: ET.Element) -> Any:
    if len(element):
        return {child.tag: child.text or "" for child in element}
    return element.text or ""
