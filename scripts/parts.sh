# shellcheck shell=bash
# What the tests of a whole cloud share. Before: $logs, a folder for the parts' output. To be sourced in the checkout.
export PATH="$PWD/.venv/bin:$PATH"
export KOLLA_SALT_SITE=${KOLLA_SALT_SANDBOX_DIR:-/var/lib/kolla-salt/sandbox}/site
mkdir -p "$logs"
begin=$SECONDS

# part NAME SECONDS COMMAND...: run a command that the rest needs, within a time
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
