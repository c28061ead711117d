#!/usr/bin/env bash
# From nothing to a running cloud on this machine.
# usage: sandbox.sh [NODES]
set -euo pipefail
nodes=${1:-1}
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
site=${KOLLA_SALT_SANDBOX_DIR:-/var/lib/kolla-salt/sandbox}/site

step() { printf '\n== %s\n' "$*"; "$@"; }
step kolla-salt images ensure
step kolla-salt sandbox up --nodes "$nodes"
step kolla-salt --site "$site" genpwd
step kolla-salt --site "$site" prechecks
step kolla-salt --site "$site" deploy
step kolla-salt --site "$site" post-deploy
step kolla-salt --site "$site" smoke --keep
