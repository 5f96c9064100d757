#!/usr/bin/env bash
# Two machines made of namespaces, a head and a worker, with an sshd each and a cable between them, to run `ray up` on.
# Each sees its own processes, network, shared memory, home and /tmp/ray, so `ray stop` stops no other Ray.
#   ray_up.sh FOLDER COMMAND...     runs COMMAND on the head; FOLDER holds key, key.pub and env/, a virtual environment
# Every process dies with this one. Needs root, unshare, ip, sshd, ssh, ssh-keygen and rsync.
set -euo pipefail
HEAD=10.77.0.1 WORKER=10.77.0.2
NAMESPACES=(--mount --pid --net --ipc --fork --kill-child --mount-proc)

boot() { # name, address: what a login finds on the machine
    local disk="$folder/$1"
    export HOME="$disk/home" TMPDIR="$disk/tmp"
    mkdir -p "$HOME/.ssh" "$TMPDIR" /tmp/ray /run/sshd
    cp "$folder/key.pub" "$HOME/.ssh/authorized_keys"
    ln -s "$folder/env" "$HOME/raypipe-env" # what setup_commands would have made
    mount -t tmpfs none /tmp/ray
    mount -t tmpfs none /dev/shm
    sed "s|^root:.*|root:*:0:0:root:$HOME:/bin/bash|" /etc/passwd > "$disk/passwd"
    mount --bind "$disk/passwd" /etc/passwd
    until ip link show cable > /dev/null 2>&1; do sleep 0.05; done
    ip link set lo up
    ip addr add "$2/24" dev cable
    ip link set cable up
    ip route add default dev cable # Ray asks for the way out to learn the machine's address
    ssh-keygen -q -t ed25519 -N '' -f "$disk/host_key"
    /usr/sbin/sshd -f /dev/null -E "$disk/sshd.log" -o ListenAddress="$2" -o HostKey="$disk/host_key" -o PidFile=none \
        -o StrictModes=no -o UsePAM=no -o PasswordAuthentication=no -o PermitRootLogin=prohibit-password
}

plug() { # process of a machine's unshare, this end of the cable
    local init
    until init="$(pgrep -P "$1")"; do sleep 0.05; done
    ip link set "$2" name cable netns "$init"
}

case "$1" in
worker)
    folder="$2"
    boot worker $WORKER
    exec sleep infinity
    ;;
head)
    folder="$2"
    boot head $HEAD
    until (: < /dev/tcp/$WORKER/22) 2> /dev/null; do sleep 0.1; done
    "${@:3}"
    ;;
rack)
    ip link add end1 type veth peer name end2
    unshare "${NAMESPACES[@]}" "${BASH_SOURCE[0]}" worker "$2" &
    plug $! end2
    unshare "${NAMESPACES[@]}" "${BASH_SOURCE[0]}" head "${@:2}" &
    head=$!
    plug $head end1
    wait $head
    ;;
*)
    exec unshare "${NAMESPACES[@]}" "${BASH_SOURCE[0]}" rack "$@"
    ;;
esac
