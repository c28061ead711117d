"""The block of ``/etc/hosts`` that names the cloud's hosts. Texts in, texts out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BEGIN = "# BEGIN kolla-salt: hosts of the cloud"
END = "# END kolla-salt: hosts of the cloud"


def block(addresses: Mapping[str, str]) -> list[str]:
    """Return the lines between the markers.

    :param addresses: host name -> address. A name with a domain gets its first part as a second name.
    """
    lines = []
    for name, address in addresses.items():
        short = name.split(".")[0]
        lines.append(f"{address} {name}" if short == name else f"{address} {name} {short}")
    return lines


def with_hosts(text: str, addresses: Mapping[str, str], own: str) -> str:
    """Return the hosts file ``text`` with the block put in or renewed.

    Installers like to give the machine's own name a loopback address (``127.0.1.1 ctl1``); clustered services would
    tell each other to connect there, so ``own`` is taken out of such lines.

    :param own: this host's name.
    """
    names = {own, own.split(".")[0]}
    kept: list[str] = []
    inside = False
    for line in text.splitlines():
        if line == BEGIN:
            inside = True
        elif line == END and inside:
            inside = False
        elif not inside:
            cleaned = _without(line, names)
            if cleaned is not None:
                kept.append(cleaned)
    while kept and not kept[-1].strip():
        kept.pop()
    return "\n".join([*kept, BEGIN, *block(addresses), END, ""])


def _without(line: str, names: set[str]) -> str | None:
    """Return ``line`` without ``names`` if it is for a loopback address other than that of ``localhost``."""
    entry, mark, comment = line.partition("#")
    words = entry.split()
    if len(words) < 2 or not (words[0].startswith("127.") or words[0] == "::1") or not names & set(words[1:]):
        return line
    left = [word for word in words[1:] if word not in names and word.split(".")[0] not in names]
    if not left:
        return None
    return " ".join([words[0], *left]) + (f"  {mark}{comment}" if mark else "")


def difference(present: str, wanted: str) -> dict[str, dict[str, Any]]:
    """Return which lines are removed and added, as Salt's ``changes``; ``{}`` if the texts are equal."""
    if present == wanted:
        return {}
    before, after = present.splitlines(), wanted.splitlines()
    there, needed = set(before), set(after)
    removed = [line for line in before if line not in needed]
    added = [line for line in after if line not in there]
    if not removed and not added:
        return {"/etc/hosts": {"old": "lines in another order", "new": "lines in order"}}
    return {"/etc/hosts": {"old": "\n".join(removed), "new": "\n".join(added)}}
