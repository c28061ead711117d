"""Whether a run that is about to begin is the one that was planned: a digest over what a plan expects.

A plan holds no secret, so its differences of files are masked, and two different secrets look the same in them. What
tells them apart are fingerprints: keyed digests over the unmasked content. The key is made from the private key of
the minion (or, for the site's files, of the master), which only root can read there; so nothing can be guessed from a
fingerprint, not even a weak password.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kolla_salt import prediction

#: Version of the form of a plan's file.
FORMAT = 1
_PURPOSE = b"kolla-salt plan\0"

Parts = dict[str, Any]


class PlanFileError(ValueError):
    """A file is no plan, or not one that can be applied here."""


def key_of(private_key: Path | str) -> bytes:
    """Return the key of this machine's fingerprints.

    Args:
        private_key: file of the minion's or the master's private key. Where it cannot be read the key is another one
            each time: then no plan is ever found to be the same.
    """
    try:
        content = Path(private_key).read_bytes()
    except OSError:
        content = os.urandom(32)
    return hashlib.sha256(_PURPOSE + content).digest()


def fingerprint(key: bytes, *contents: Any) -> str:
    """Return a digest over ``contents`` (bytes, or data for JSON) that says nothing to who lacks ``key``."""
    total = hmac.new(key, digestmod=hashlib.sha256)
    for content in contents:
        data = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True, default=str).encode()
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:20]


def site_files(directory: Path | str, key: bytes) -> dict[str, str]:
    """Return the fingerprint of each file of a site, by its path within it."""
    base = Path(directory)
    files = [base / name for name in ("globals.yml", "topology.yml", "passwords.yml")]
    files += sorted((base / "overrides").rglob("*"))
    return {str(path.relative_to(base)): fingerprint(key, path.read_bytes()) for path in files if path.is_file()}


def parts(
    verb: str,
    services: Iterable[str] | None,
    limit: Iterable[str] | None,
    found: prediction.Forecast,
    site: Mapping[str, str],
    version: str,
) -> Parts:
    """Return what a plan is about: two runs with the same parts do the same.

    Args:
        verb: what is done.
        services: to which it is restricted, or nothing.
        limit: hosts to which it is restricted, or nothing.
        found: the forecast, with what hosts predict.
        site: as :func:`site_files` returns it.
        version: of kolla-salt.
    """
    hosts = {}
    for host, report in sorted(found.reports.items()):
        changes = {
            state["id"]: [_words(state), str(state.get("fingerprint", ""))]
            for state in sorted(report["states"], key=lambda state: state["id"])
        }
        tried = sorted(state["id"] for state in report["failed"])
        hosts[host] = {"changes": changes, "tried": tried, "images": sorted(report["missing_images"])}
    return {
        "verb": verb,
        "services": sorted(services or []),
        "limit": sorted(limit or []),
        "version": version,
        "site": dict(sorted(site.items())),
        "steps": [
            [step["role"], list(step["sls"]), list(step["minions"]), list(step.get("phases") or [])]
            for step in found.steps
        ],
        "hosts": hosts,
    }


def _words(state: Mapping[str, Any]) -> str:
    """Return what a predicted change is, in a few words."""
    done = prediction.act(state)
    return done.done if done else ", ".join(sorted(state["changes"])) or "changed"


def content_hash(content: Parts) -> str:
    """Return the digest over the parts of a plan."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def differences(expected: Parts, now: Parts, begun: bool = False) -> list[str]:
    """Return in sentences what is another than planned; none: the run is the one that was planned.

    Args:
        expected: of the plan.
        now: of the run.
        begun: this plan was applied before, and that ended early: what is done already is no difference, nor that what
            is left may have got another fingerprint by it.
    """
    lines = [
        f"{what}: {_shown(now[key])}, planned was {_shown(expected[key])}"
        for key, what in (
            ("verb", "the verb"),
            ("services", "the services"),
            ("limit", "the hosts it is restricted to"),
            ("version", "kolla-salt"),
        )
        if expected[key] != now[key]
    ]
    lines += _site_differences(expected["site"], now["site"])
    for host in [name for name in expected["hosts"] if name not in now["hosts"]]:
        lines.append(f"{host} does not answer; it did when the plan was made")
    for host in [name for name in now["hosts"] if name not in expected["hosts"]]:
        lines.append(f"{host} answers; it did not when the plan was made, so nothing was planned for it")
    if not lines and expected["steps"] != now["steps"]:
        lines.append("the order of services and hosts is another one")
    for host, planned in expected["hosts"].items():
        if host in now["hosts"]:
            lines += [f"{host}: {text}" for text in _host_differences(planned, now["hosts"][host], begun)]
    return lines


def _shown(value: Any) -> str:
    return (", ".join(value) or "all") if isinstance(value, list) else str(value)


def _site_differences(expected: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    lines = []
    for name in sorted({*expected, *now}):
        if name not in now:
            lines.append(f"{name} of the site was removed")
        elif name not in expected:
            lines.append(f"{name} of the site is new")
        elif expected[name] != now[name]:
            lines.append(f"{name} of the site was changed")
    return lines


def _host_differences(expected: Mapping[str, Any], now: Mapping[str, Any], begun: bool) -> list[str]:
    lines = []
    for name, (words, digest) in now["changes"].items():
        planned = expected["changes"].get(name)
        if planned is None:
            lines.append(f"{name} ({words}) was not planned")
        elif planned[0] != words:
            lines.append(f"{name} ({words}), planned was: {planned[0]}")
        elif planned[1] != digest and not begun:
            lines.append(f"{name} ({words}) differs from its declaration in another way than when the plan was made")
    lines += [f"{name} can no longer be predicted" for name in now["tried"] if name not in expected["tried"]]
    lines += [f"{name} is missing now" for name in now["images"] if name not in expected["images"]]
    if begun:
        return lines
    for name, (words, _) in expected["changes"].items():
        if name not in now["changes"]:
            lines.append(f"{name} ({words}) is no longer to be done")
    lines += [f"{name} can be predicted by now" for name in expected["tried"] if name not in now["tried"]]
    lines += [f"{name} is there by now" for name in expected["images"] if name not in now["images"]]
    return lines


# --- the file ---------------------------------------------------------------------------------------------------------


def write(path: Path | str, content: Mapping[str, Any]) -> None:
    """Write a plan's file, which only its owner can read; the old one stays until the new one is whole."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
            stream.write(json.dumps(content, indent=1, default=str) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise PlanFileError(f"writing the plan to {path}: {error.strerror}") from error


def read(path: Path | str) -> dict[str, Any]:
    """Return a plan from its file.

    Raises:
        PlanFileError: it cannot be read, is no plan, is of another version, or was changed since it was written.
    """
    what = f"reading the plan {path}"
    again = "make it again: kolla-salt plan --out FILE"
    try:
        found = json.loads(Path(path).read_text())
    except OSError as error:
        raise PlanFileError(f"{what}: {error.strerror}; {again}") from error
    except ValueError as error:
        raise PlanFileError(f"{what}: it is not the file of a plan ({error}); {again}") from error
    if not isinstance(found, dict) or not {"format", "hash", "parts"} <= set(found):
        raise PlanFileError(f"{what}: it is not the file of a plan; {again}")
    if found["format"] != FORMAT:
        raise PlanFileError(f"{what}: it has format {found['format']}, expected {FORMAT}; {again}")
    if content_hash(found["parts"]) != found["hash"]:
        raise PlanFileError(f"{what}: it was changed after it was written; {again}")
    return found
