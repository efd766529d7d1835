# A machine for tests: a real systemd as process 1 of its own namespaces, on an overlay of the file system of this
# one. Nothing that happens in it is left behind. To be sourced by a script; needs the rights of root.
#
#   machine_or_skip "$@"       begins the script anew in a mount namespace, or skips the test if that is not permitted
#   machine_boot               starts it, and waits until it is up
#   machine COMMAND...         runs a command in it, ten minutes at most
#   machine_stop               ends it; also done on exit
#   wait_for WHAT SECONDS COMMAND...
#
# $root is its file system as it is seen from here.

machine=$(mktemp -d)
root=$machine/root
machine_pid=
machine_cgroup=
trap machine_stop EXIT
trap 'exit 130' INT TERM
set -E
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR

fail() {
    trap - ERR
    printf '%s: %s\n' "$0" "$*" >&2
    [ -z "$machine_pid" ] || journal_of_machine >&2 || true
    exit 1
}
say() { printf 'ok: %s\n' "$*"; }

# Begins the script again where mounts are its own. Without the rights for namespaces it is skipped, and says so.
machine_or_skip() {
    [ "${MACHINE_INSIDE:-}" = "$PPID" ] && return
    if ! unshare --fork --pid --mount --cgroup --ipc --uts --net true 2>/dev/null; then
        echo "SKIPPED: $0: namespaces are not permitted here"
        exit 0
    fi
    local code=0
    MACHINE_INSIDE=$$ unshare --mount --propagation private -- "$0" "$@" || code=$?
    exit "$code"
}

machine_boot() {
    # A limit, not a size: nats-server sets places aside by it, two installations need 4 GiB.
    mount -t tmpfs -o mode=0755,size=12g machine "$machine"
    mkdir "$machine/upper" "$machine/work" "$root"
    mount -t overlay -o "lowerdir=/,upperdir=$machine/upper,workdir=$machine/work" overlay "$root"
    mount -t tmpfs -o mode=0755 run "$root/run"
    mount -t tmpfs -o mode=1777 tmp "$root/tmp"
    mount -t tmpfs -o mode=0755 dev "$root/dev"
    mkdir "$root/dev/pts" "$root/dev/shm"
    for node in null zero full random urandom tty; do
        touch "$root/dev/$node"
        mount --bind "/dev/$node" "$root/dev/$node"
    done
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"

    # No unit of this machine's own: only what every boot has.
    : >"$root/etc/fstab"
    tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
    rm -rf "$root/var/lib/dbus/machine-id" "$root/var/log/journal"
    mkdir -p "$root/etc/systemd/system"
    find "$root/etc/systemd/system" -mindepth 1 -maxdepth 1 -exec rm -rf {} +
    cat >"$root/etc/systemd/system/machine.target" <<'UNIT'
[Unit]
Requires=sysinit.target
Wants=basic.target multi-user.target
After=sysinit.target basic.target
AllowIsolate=yes
UNIT
    # What multi-user.target of Debian pulls in has nothing to do here.
    local unit
    for unit in systemd-logind systemd-udevd systemd-udevd-kernel.socket systemd-udevd-control.socket \
        systemd-udev-trigger systemd-networkd-wait-online systemd-timesyncd getty.target e2scrub_reap \
        systemd-ask-password-wall.path systemd-networkd systemd-networkd.socket systemd-resolved systemd-sysctl systemd-modules-load systemd-remount-fs \
        dbus dbus.socket apt-daily.timer apt-daily-upgrade.timer cron ssh; do
        case $unit in *.*) ;; *) unit=$unit.service ;; esac
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done

    # A control group of its own, which is the root of what it sees.
    local groups
    groups=$(findmnt -n -o TARGET -t cgroup2 | head -1)
    if [ -n "$groups" ] && mkdir "$groups/orchestrator-machine-$$" 2>/dev/null; then
        machine_cgroup=$groups/orchestrator-machine-$$
    fi
    (
        [ -z "$machine_cgroup" ] || echo "$BASHPID" >"$machine_cgroup/cgroup.procs"
        exec unshare --fork --pid --mount --propagation private --cgroup --ipc --uts --net -- bash -c '
            set -e
            root=$1
            hostname machine
            ip link set lo up
            mount -t proc proc "$root/proc"
            mount -t sysfs -o ro sysfs "$root/sys"
            mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
            cd "$root"
            # Not chroot: what was changed by it may have no namespaces of users.
            pivot_root . .
            umount -l .
            exec /usr/bin/env -i container=lxc PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
                /lib/systemd/systemd --system --unit=machine.target --log-level=notice --log-target=journal --show-status=no
        ' machine "$root"
    ) </dev/null >"$machine/console" 2>&1 &
    machine_pid=$!
    wait_for "the machine is up" 60 machine_is_up
}

machine_is_up() {
    kill -0 "$machine_pid" 2>/dev/null || fail "the machine did not start: $(tail -5 "$machine/console")"
    local state
    state=$(machine systemctl is-system-running 2>/dev/null) || true
    [ "$state" = running ] || [ "$state" = degraded ]
}

# The first process of the machine, as it is seen from here.
machine_init() { pgrep -P "$(pgrep -P "$machine_pid" -x unshare 2>/dev/null || echo "$machine_pid")" | head -1; }

machine() {
    local init
    init=$(machine_init)
    [ -n "$init" ] || return 1
    timeout --kill-after 5 600 nsenter --target "$init" --mount --uts --ipc --net --pid --cgroup --root="/proc/$init/root" --wd="/proc/$init/root" \
        /usr/bin/env -i HOME=/root TERM=dumb LANG=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@" </dev/null
}

journal_of_machine() {
    machine journalctl --sync
    machine journalctl --no-pager -n 60 -o short-monotonic
}

machine_stop() {
    local init
    if [ -n "$machine_pid" ]; then
        init=$(machine_init)
        # The end of its first process is the end of all.
        [ -z "$init" ] || kill -KILL "$init" 2>/dev/null || true
        wait "$machine_pid" 2>/dev/null || true
        machine_pid=
    fi
    umount -R -l "$machine" 2>/dev/null || true
    # Never into what is still mounted there.
    rm -rf --one-file-system "$machine"
    [ -z "$machine_cgroup" ] || find "$machine_cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
    machine_cgroup=
}

# Waits until a command succeeds.
wait_for() {
    local what=$1 end=$((SECONDS + $2))
    shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || fail "not in time: $what"
        sleep 0.1
    done
}
