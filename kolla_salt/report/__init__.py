"""The report of a run: one HTML file that needs nothing else, made from the run's record."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kolla_salt import outcome, runs
from kolla_salt.report import model

_HERE = Path(__file__).parent


def make(record: runs.Run) -> str:
    """Return the report of ``record`` as HTML.

    Whatever the record holds is searched once more for the secrets of its site, as far as they can be read here.
    """
    parts = {
        "header": runs.told(record),
        "steps": list(record.steps()),
        "plan": record.plan(),
        "receipt": record.availability(),
        "containers": record.containers(),
        "site": record.site(),
    }
    return render(**outcome.scrub(parts, record.secrets))


def render(
    header: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    plan: Mapping[str, Any] | None = None,
    receipt: Mapping[str, Any] | None = None,
    containers: Mapping[str, Any] | None = None,
    site: Mapping[str, Any] | None = None,
) -> str:
    """Return the report as HTML, from the parts of a record."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clock"] = lambda moment: model.clock(moment, tenth=True)
    script = (_HERE / "report.js").read_text()
    # The only script that a browser runs in this page, whatever else should get into it.
    script_hash = "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        **model.build(header, steps, plan, receipt, containers, site),
        css=Markup((_HERE / "report.css").read_text()),
        js=Markup(script),
        script_hash=Markup(script_hash),
    )
