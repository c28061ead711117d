#!/usr/bin/env bash
# One of each failure on a cloud of three controllers and a compute node, which is made first where it is not there.
# usage: test-ha.sh [PYTEST ARGUMENTS]    e.g. test-ha.sh -k "partition or broker"
# The last lines say what failed first. Output of the parts, and what was measured (ha.md): build/test-ha/.
set -uo pipefail
cd "$(dirname "$0")/.."
logs=build/test-ha
. scripts/parts.sh

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
