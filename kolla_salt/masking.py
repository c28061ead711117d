"""Differences of configuration files that never show a secret.

The declared file's secrets are known by value. Those of the file on disk may be older ones that nobody knows any
more, so they are found by where they stand: the password of a URL, the value of a key that sounds secret, the body
of a private key, and the place at which the new text has a secret.
"""

from __future__ import annotations

import base64
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "***"

# Enough to see what happens; a run over a whole cloud returns hundreds of differences in one message.
LONGEST_DIFF = 8_000

_URL_PASSWORD = re.compile(r"((?:://|,)[^\s:/@,]*:)[^\s/@,]+(?=@)")
_PRIVATE_KEY = re.compile(
    r"(-----BEGIN [A-Z ]*PRIVATE KEY-----\n).*?(\n[ \t]*-----END [A-Z ]*PRIVATE KEY-----)", re.DOTALL
)
# Keys by the names that OpenStack, MariaDB, HAProxy and keepalived use. A value that is a path or an expression of
# the same program's own language says nothing secret and stays readable.
_SECRET_KEY = re.compile(
    r"""^(?P<key>[+\-\s]*["']?[\w.-]*(?:password|passwd|passphrase|secret|token|auth_pass|access_key|secret_key
        |encryption_key|crypto_key|erlang_cookie|password_hash)["']?[ \t]*(?:[:=]|[ \t])[ \t]*)
        (?P<value>(?!/|\{\{|true\b|false\b|none\b|null\b)\S.*)$""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_STATS_AUTH = re.compile(r"^(\s*stats\s+auth\s+[^\s:]+:)\S+", re.MULTILINE)
_KEY = re.compile(r"^\s*[\"']?([\w./-]+)[\"']?\s*(?:[:=]|\s)")


def secret_values(passwords: Mapping[str, Any]) -> dict[str, str]:
    """Return every secret string of ``passwords`` -> the password's name; nested ones (SSH keys) by parent's name.

    Public parts of key pairs are not secret.
    """
    found: dict[str, str] = {}

    def collect(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                if key != "public_key":
                    collect(name, item)
        elif isinstance(value, list | tuple):
            for item in value:
                collect(name, item)
        elif value not in (None, "", True, False):
            found.setdefault(str(value).strip("\n"), name)

    for name, value in passwords.items():
        collect(name, value)
    found.pop("", None)
    return found


def mask(text: str, secrets: Iterable[str]) -> str:
    """Return ``text`` with every occurrence of ``secrets``, and what looks like a secret, replaced by ``***``.

    secrets
        values; the longest are replaced first, so that one that is part of another leaves nothing behind.
    """
    for value in sorted(set(secrets), key=len, reverse=True):
        text = _replace(text, value)
    text = _PRIVATE_KEY.sub(rf"\1{MASK}\2", text)
    text = _URL_PASSWORD.sub(rf"\g<1>{MASK}", text)
    text = _STATS_AUTH.sub(rf"\g<1>{MASK}", text)
    return _SECRET_KEY.sub(lambda found: found["key"] + MASK, text)


def _replace(text: str, value: str) -> str:
    text = text.replace(value, MASK)
    # URLs, JSON strings and indented blocks hold a value in another shape.
    for shape in _shapes(value):
        text = text.replace(shape, MASK)
    if "\n" in value:
        for line in value.splitlines():
            # Short lines of a key ("-----BEGIN ...") are no secret; the base64 lines are.
            if len(line) >= 16 and not line.startswith("-----"):
                text = text.replace(line, MASK)
    return text


def _shapes(value: str) -> set[str]:
    return {
        quote(value, safe=""),
        quote(value),
        quote_plus(value),
        json.dumps(value)[1:-1],
        value.replace("'", "''"),
        base64.b64encode(value.encode()).decode(),
    } - {value, ""}


def diff(old: str, new: str, secrets: Mapping[str, str], used: Iterable[str] = ()) -> str:
    """Return a unified difference without file headers and without secrets, at most ``LONGEST_DIFF`` long.

    secrets
        value -> name, as :func:`secret_values` gives it.
    used
        names of the passwords in the new text. If nothing else differs, those whose value the old text lacks are
        reported as ``secret NAME changed``.
    """
    old_masked, new_masked = mask(old, secrets).splitlines(), mask(new, secrets).splitlines()
    old_masked = _mask_aligned(old_masked, new_masked)
    lines = list(difflib.unified_diff(old_masked, new_masked, lineterm="", n=2))[2:]
    changed = changed_secrets(old, new, secrets, used)
    notes = [f"secret {name} changed" for name in changed]
    if not lines and not notes:
        notes = ["only a masked value, white space or the end of lines differs"]
    text = "\n".join([*notes, *lines])
    if len(text) > LONGEST_DIFF:
        shown = text[:LONGEST_DIFF].rsplit("\n", 1)[0]
        hidden = text.count("\n") - shown.count("\n")
        text = f"{shown}\n[... {hidden} more lines]"
    return text


def changed_secrets(old: str, new: str, secrets: Mapping[str, str], used: Iterable[str]) -> list[str]:
    """Return those of ``used`` whose value stands in ``new`` but not in ``old``, sorted."""
    used = set(used)
    return sorted(
        {name for value, name in secrets.items() if name in used and _holds(new, value) and not _holds(old, value)}
    )


def _holds(text: str, value: str) -> bool:
    if "\n" in value:
        return all(line.strip() in text for line in value.splitlines())
    return value in text or any(shape in text for shape in _shapes(value))


def _mask_aligned(old: list[str], new: list[str]) -> list[str]:
    """Mask in ``old`` what stands where ``new`` has a secret, for values that no one knows any more."""
    patterns = {line: _pattern(line) for line in new if MASK in line}
    keys = {found.group(1) for line in patterns if (found := _KEY.match(line)) and MASK not in found.group()}
    result = list(old)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for tag, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        if tag not in ("replace", "delete"):
            continue
        here = [patterns[line] for line in new[new_from:new_to] if line in patterns]
        for index in range(old_from, old_to):
            result[index] = _mask_line(old[index], here, keys)
    return result


def _pattern(line: str) -> re.Pattern[str]:
    parts = [f"({re.escape(part)})" for part in line.split(MASK)]
    return re.compile(".+?".join(parts) + "$")


def _mask_line(line: str, patterns: list[re.Pattern[str]], keys: set[str]) -> str:
    for pattern in patterns:
        found = pattern.match(line)
        if found:
            return MASK.join(found.groups())
    key = _KEY.match(line)
    if key and key.group(1) in keys and MASK not in line:
        return key.group() + MASK
    return line
