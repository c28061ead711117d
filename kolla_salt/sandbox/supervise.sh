#!/bin/sh
# What runs in a sandbox node, under tini as process 1: a container engine and a salt-minion, each started again
# when it ends. Runs as a copy in /run/kolla-salt, because a shell reads its script while it executes it.
set -u

log=/var/log/kolla-salt
mkdir -p "$log"

say() {
    echo "$(date '+%F %T') $*" >> "$log/supervise.log"
}

keep() {
    name=$1
    delay=1
    while :; do
        began=$(date +%s)
        say "$name starts"
        "run_$name" >> "$log/$name.log" 2>&1
        status=$?
        # One that ran for a while deserves a quick restart; one that cannot start must not eat the processor.
        [ $(($(date +%s) - began)) -lt 30 ] || delay=1
        say "$name ended with status $status, starts again in $delay s"
        sleep "$delay"
        delay=$((delay < 16 ? delay * 2 : 30))
    done
}

run_dockerd() {
    dockerd
}

run_minion() {
    # Without an address the minion would fail and wait for much longer.
    while [ -z "$(ip -4 -o address show dev eth0 scope global 2> /dev/null)" ]; do
        sleep 0.1
    done
    # When only the main process was killed, its orphans make the next minion end again.
    pkill -KILL -f /opt/kolla-salt/bin/salt-minion
    # What code this minion starts with: `sandbox up` compares it to the clone's.
    cp /run/kolla-salt/code.now /run/kolla-salt/code.minion
    # Compiled files of the read-only code are kept here.
    PYTHONPYCACHEPREFIX=/var/cache/kolla-salt/pycache PYTHONWARNINGS=ignore \
        salt-minion --config-dir /etc/salt --log-level warning
}

keep dockerd &
keep minion &
wait
