#!/usr/bin/env bash
# Everything that is tested, on a machine that may be empty: lint, unit, functional and engine tests, a real cloud.
# On failure the last lines name the part that failed; the parts' output is in build/test/.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
logs=build/test
mkdir -p "$logs"
failed=()
begin=$SECONDS

part() {
    local name=$1 start=$SECONDS
    shift
    printf '== %s\n' "$name"
    # Tests of which every single one was left out have shown nothing.
    if "$@" >"$logs/$name.log" 2>&1 && ! tail -n 1 "$logs/$name.log" | grep -q '^[0-9]* skipped in'; then
        printf '   %s: ok, %d s%s\n' "$name" $((SECONDS - start)) "$(tail -n 1 "$logs/$name.log" | sed -n 's/^\(.*[^0-9]\)\{0,1\}\([0-9][0-9]* passed.*\)$/, \2/p')"
        return 0
    fi
    failed+=("$name")
    printf '   %s: FAILED after %d s; the last lines of %s:\n' "$name" $((SECONDS - start)) "$logs/$name.log"
    # Which tests, before what they printed.
    grep -E '^(FAILED|ERROR) ' "$logs/$name.log" | cut -c1-240 | sed 's/^/   ! /'
    tail -n 60 "$logs/$name.log" | sed 's/^/   | /'
    return 1
}

# What tests look at the cloud with, and programs whose configuration files they have checked.
tools=""
for pair in chromium:chromium chromedriver:chromium-driver logrotate:logrotate cpio:cpio \
    mariadbd:mariadb-server-core mariadb-dump:mariadb-client pgrep:procps \
    wsrep_sst_rsync:mariadb-server rsync:rsync haproxy:haproxy; do
    PATH=$PATH:/usr/sbin:/usr/local/sbin command -v "${pair%%:*}" >/dev/null || tools+=" ${pair##*:}"
done
# shellcheck disable=SC2086 # a list of package names
[ -z "$tools" ] || part tools bash -c "apt-get -qq update && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get -qq install -y --no-install-recommends $tools"
part lint make -s lint
unit="not engine and not cloud and not salt and not ha and not upgrade"
part unit pytest -q --durations=10 -n 2 --ignore=tests/unit/availability -m "$unit"
# It measures tenths of a second: nothing beside it.
part unit-probe pytest -q tests/unit/availability -m "$unit"
# A cloud that is there already would be tested as it is: begin with none.
part sandbox-down kolla-salt sandbox down
if part images kolla-salt images ensure && part sandbox-up kolla-salt sandbox up --nodes 1; then
    # They wait most of the time: for a master, a container, a database.
    part salt-and-engine pytest -q --durations=40 -n 4 --dist loadfile --ignore=tests/engine/test_galera_cluster.py -m "salt or engine"
    # Its members lose sight of each other where others take the processor.
    part galera pytest -q --durations=10 tests/engine/test_galera_cluster.py
    part cloud pytest -q --durations=30 -x -m cloud
else
    echo "   the tests that need an engine or a cloud did not run, since there is no sandbox"
fi

# The sum of the parts is what a reader, and a machine, looks for last.
total() { cat "$logs"/*.log | sed -n "s/.*[^0-9]\([0-9][0-9]*\) $1.*/\1/p;s/^\([0-9][0-9]*\) $1.*/\1/p" | awk '{n+=$1} END {print n+0}'; }
printf '\n%d s\n' $((SECONDS - begin))
if [ ${#failed[@]} -gt 0 ]; then
    for name in "${failed[@]}"; do grep -hE '^(FAILED|ERROR) ' "$logs/$name.log" | cut -c1-240; done
    printf 'FAILED: %s\n' "${failed[*]}"
    printf '%d passed, %d failed\n' "$(total passed)" "$(($(total failed) > 0 ? $(total failed) : ${#failed[@]}))"
    exit 1
fi
printf '%d passed, 0 failed\n' "$(total passed)"
