"""Watch a cloud's APIs from outside, as a client sees them, and say what was missing.

    probe = Probe(targets(resolver), account(resolver, passwords)).start()
    probe.mark("node1 killed")
    receipt = probe.stop()
    print(receipt.text(), receipt.recovery("node1 killed"))

``python -m kolla_salt.availability --site DIR`` does it until Ctrl-C. A run has it done in a process of its own, see
:mod:`kolla_salt.availability.watcher`.
"""

from __future__ import annotations

from kolla_salt.availability.probe import Probe
from kolla_salt.availability.receipt import Receipt
from kolla_salt.availability.targets import Account, Target, account, targets

__all__ = ["Account", "Probe", "Receipt", "Target", "account", "targets"]
