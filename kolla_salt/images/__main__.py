"""``python -m kolla_salt.images``."""

import sys

from kolla_salt.images.cli import main

sys.exit(main())
