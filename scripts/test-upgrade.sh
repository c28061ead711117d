#!/usr/bin/env bash
# A real upgrade of a cloud in the sandbox, with a server and users' data in it, and the way back.
# usage: test-upgrade.sh [PYTEST ARGUMENTS]
#   OLD=2025.2 NEW=2026.1 NODES=1   releases and size of the cloud; 4 nodes are 3 controllers and a compute node
# The cloud that is in the sandbox is removed. Output of the parts and figures: build/test-upgrade/.
set -uo pipefail
cd "$(dirname "$0")/.."
export OLD=${OLD:-2025.2} NEW=${NEW:-2026.1} NODES=${NODES:-1}
logs=build/test-upgrade
. scripts/parts.sh

part images-new 3600 kolla-salt images ensure --release "$NEW"
part images-old 3600 kolla-salt images ensure --release "$OLD"
part sandbox-down 300 kolla-salt sandbox down
part sandbox-up 600 kolla-salt sandbox up --nodes "$NODES" --release "$OLD"
part passwords 60 kolla-salt genpwd
part deploy 1500 kolla-salt deploy
part post-deploy 120 kolla-salt post-deploy
part server 600 kolla-salt smoke --keep

printf '== upgrade\n'
timeout --kill-after=60 "${UPGRADE_SECONDS:-9000}" pytest -q -x -m upgrade --no-header --show-capture=stdout tests/upgrade "$@" |
    tee "$logs/upgrade.log"
status=$?
if [ $status -ne 0 ]; then
    printf '\nFAILED first: %s\n' "$(grep -m 1 '^FAILED' "$logs/upgrade.log" || tail -n 1 "$logs/upgrade.log")"
fi
[ -f "$logs/figures.json" ] && cat "$logs/figures.json"
printf '%d s in all\n' $((SECONDS - begin))
exit $status
