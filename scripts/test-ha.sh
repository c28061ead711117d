#!/usr/bin/env bash
# One of each failure on a cloud of three controllers and a compute node, which is made first where it is not there.
# usage: test-ha.sh [PYTEST ARGUMENTS]    e.g. test-ha.sh -k "partition or broker"
# The last lines say what failed first. Output of the parts: build/test-ha/.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
logs=build/test-ha
mkdir -p "$logs"
begin=$SECONDS
export KOLLA_SALT_SITE=${KOLLA_SALT_SANDBOX_DIR:-/var/lib/kolla-salt/sandbox}/site

part() {
    local name=$1 limit=$2 start=$SECONDS
    shift 2
    printf '== %s\n' "$name"
    if timeout --kill-after=30 "$limit" "$@" >"$logs/$name.log" 2>&1; then
        printf '   %s: ok, %d s\n' "$name" $((SECONDS - start))
        return 0
    fi
    printf '   %s: FAILED after %d s (limit %d s); the last lines of %s:\n' "$name" $((SECONDS - start)) "$limit" "$logs/$name.log"
    tail -n 60 "$logs/$name.log" | sed 's/^/   | /'
    printf '\nFAILED: %s, %d s\n' "$name" $((SECONDS - begin))
    exit 1
}

part images 3600 kolla-salt images ensure
part sandbox-up 600 kolla-salt sandbox up --nodes 4
part passwords 60 kolla-salt genpwd
part deploy 1500 kolla-salt deploy
part verify 300 kolla-salt verify

printf '== failures\n'
timeout --kill-after=60 "${HA_SECONDS:-7200}" pytest -q -m ha --no-header --show-capture=stdout tests/ha "$@" | tee "$logs/failures.log"
status=$?
if [ $status -ne 0 ]; then
    printf '\nFAILED first: %s\n' "$(grep -m 1 '^FAILED' "$logs/failures.log" || tail -n 1 "$logs/failures.log")"
fi
printf '%d s in all\n' $((SECONDS - begin))
exit $status
