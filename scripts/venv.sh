#!/usr/bin/env bash
# Make the project's virtual environment with everything that running and testing needs.
# usage: venv.sh DIRECTORY      (environment: PYTHON, the interpreter to use)
set -euo pipefail
venv=${1:?usage: venv.sh DIRECTORY}
python=${PYTHON:-python3}
cache=${KOLLA_SALT_CACHE_DIR:-/var/cache/kolla-salt}

need_packages() {
    command -v gcc >/dev/null || echo gcc
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    "$python" - <<'PY' || echo python3-dev
import os, sysconfig
raise SystemExit(0 if os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")) else 1)
PY
}
missing=$(need_packages | xargs)
if [ -n "$missing" ]; then
    echo "== installing packages: $missing"
    # shellcheck disable=SC2086 # a list of package names
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing; } >/dev/null || {
        echo "making $venv: the packages '$missing' are needed and could not be installed; install them and run make again" >&2
        exit 1
    }
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "making $venv: $python is Python $version, at least 3.11 is needed; give another one with PYTHON=..." >&2
    exit 1
}
echo "== virtual environment $venv (Python $version)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# Salt is built from source (about a minute): the wheels are kept for the next checkout.
wheels=$cache/wheels/py$version
mkdir -p "$wheels" 2>/dev/null || wheels=$(mktemp -d)
"$venv/bin/pip" install -qq --find-links "$wheels" -e '.[test,client]'
"$venv/bin/pip" wheel -qq --no-deps --find-links "$wheels" -w "$wheels" "salt==$("$venv/bin/pip" show salt | sed -n 's/^Version: //p')" 'timelib'
touch "$venv/.ready"
