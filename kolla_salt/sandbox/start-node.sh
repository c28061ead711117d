#!/bin/sh
# Start one sandbox node. Called by kolla_salt/sandbox/node.py, which describes the node in KS_* variables; the
# arguments `kolla-salt-node DIRECTORY NAME DIGEST` are only there to be found in the process table.
#
# Stages: "group" joins the node's control groups, "space" (already in the node's namespaces) builds the node's file
# system and becomes its first process. The namespaces live as long as this process, and the mounts as long as they.
set -eu

stage=$1
shift

if [ "$stage" = group ]; then
    # Done before `unshare --cgroup`, so that these groups are the roots of what the node sees.
    for group in $KS_CGROUP_DIRS; do
        echo $$ > "$group/cgroup.procs"
    done
    exec unshare --cgroup -- /bin/sh "$0" leaf "$@"
fi

if [ "$stage" = leaf ]; then
    # cgroup v2: a group with controllers for its children may have no processes itself.
    if [ -n "$KS_CGROUP2_ROOT" ]; then
        mkdir -p "$KS_CGROUP2_ROOT/init"
        echo $$ > "$KS_CGROUP2_ROOT/init/cgroup.procs"
        for controller in $(cat "$KS_CGROUP2_ROOT/cgroup.controllers"); do
            echo "+$controller" > "$KS_CGROUP2_ROOT/cgroup.subtree_control" ||
                echo "cgroup controller $controller cannot be given to the node's containers"
        done
    fi
    exec unshare --mount --propagation private --uts --ipc --net --pid --fork -- /bin/sh "$0" space "$@"
fi

root=$KS_ROOT
mount -t overlay overlay -o "lowerdir=$KS_BASE,upperdir=$KS_UPPER,workdir=$KS_WORK" "$root"
mkdir -p "$root/var/lib/docker" "$root/lib/modules" "$root/opt/kolla-salt"
# The engine's data must not lie on an overlay itself: overlays of overlays are refused as upper directories.
mount --bind "$KS_DOCKER" "$root/var/lib/docker"
# What all nodes share, as servers would share a folder of an NFS server.
mkdir -p "$root/srv/shared"
mount --bind "$KS_SHARED" "$root/srv/shared"
if [ -d /lib/modules ]; then
    mount --bind /lib/modules "$root/lib/modules"
    mount -o remount,bind,ro "$root/lib/modules"
fi
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
mkdir -p "$root/run/lock" "$root/run/kolla-salt"
mount --bind "$KS_RUN" "$root/run/kolla-salt"

# The project: its environment, the clone's code and the metadata that names its Salt entry points. See node.py,
# which replaces these mounts while the node runs when another clone takes over.
mount --bind "$KS_VENV" "$root/opt/kolla-salt"
mount -o remount,bind,ro "$root/opt/kolla-salt"
mount --bind "$KS_REPO" "$root/opt/kolla-salt/src"
mount -o remount,bind,ro "$root/opt/kolla-salt/src"
mount --bind "$KS_META" "$root/opt/kolla-salt/meta"
mount -o remount,bind,ro "$root/opt/kolla-salt/meta"

# Devices: a directory of the node's own, so that nothing in it can write into the machine's.
mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
for device in null zero full random urandom tty kmsg fuse kvm loop-control vhost-net net/tun mapper/control \
              loop0 loop1 loop2 loop3 loop4 loop5 loop6 loop7; do
    if [ -e "/dev/$device" ]; then
        mkdir -p "$root/dev/$(dirname "$device")"
        cp -a "/dev/$device" "$root/dev/$device"
    fi
done
mkdir -p "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
mount -t mqueue mqueue "$root/dev/mqueue"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"

# Control groups: mounted anew inside the node's cgroup namespace, where each hierarchy begins at the node's group.
if [ -n "$KS_CGROUP2_ROOT" ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs -o mode=755,nosuid,nodev,noexec tmpfs "$root/sys/fs/cgroup"
    for hierarchy in $KS_CGROUP1; do
        name=${hierarchy%%=*}
        options=${hierarchy#*=}
        mkdir -p "$root/sys/fs/cgroup/$name"
        mount -t cgroup -o "$options" cgroup "$root/sys/fs/cgroup/$name"
        case $name in
            *,*) for one in $(echo "$name" | tr , ' '); do ln -sfn "$name" "$root/sys/fs/cgroup/$one"; done ;;
        esac
    done
    if [ -n "$KS_CGROUP_UNIFIED" ]; then
        mkdir -p "$root/sys/fs/cgroup/unified"
        mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
    fi
fi

echo "$KS_NAME" > /proc/sys/kernel/hostname
cd "$root"
mkdir -p .old
# pivot_root, not chroot: under chroot `docker exec` lands in the wrong root.
pivot_root . .old
umount -l /.old
rmdir /.old
# Containers mount some host directories `:shared`. Not before pivot_root, which refuses a shared new root.
mount --make-rshared /
ip link set lo up

exec env -i HOME=/root LANG=C.UTF-8 \
    PATH=/opt/kolla-salt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /usr/bin/tini -g -- /bin/sh /run/kolla-salt/supervise "$@"
