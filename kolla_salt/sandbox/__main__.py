"""Run the sandbox commands without the main CLI: ``python -m kolla_salt.sandbox up --nodes 1``."""

import sys

from kolla_salt.sandbox.cli import main

sys.exit(main())
