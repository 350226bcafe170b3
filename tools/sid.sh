#!/bin/sh
# A root file system of Debian sid, which has Python 3.14, created once by debootstrap below .matrix/sid.
#   tools/sid.sh                 create it; requires root on Debian, 2 minutes, 400 MB
#   tools/sid.sh COMMAND...      run a command in it, in this folder; its mounts end with the command
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
root=$here/.matrix/sid

if [ $# = 0 ]; then
    [ -e "$root/made" ] && exit 0
    command -v debootstrap >/dev/null || apt-get install -y -qq debootstrap >/dev/null
    rm -rf "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase --include=python3,python3-venv,python3-dev,gcc,libc6-dev,ca-certificates \
        sid "$root" >"$here/.matrix/sid.log" 2>&1 || { tail -3 "$here/.matrix/sid.log" >&2; exit 1; }
    touch "$root/made"
    exit 0
fi

# A separate mount namespace, so that nothing stays mounted. Host names and certificates are those of this machine.
exec unshare --mount sh -euc '
    root=$1 here=$2
    shift 2
    for each in proc sys dev dev/pts; do mount --bind "/$each" "$root/$each"; done
    mkdir -p "$root$here"
    mount --bind "$here" "$root$here"
    for each in resolv.conf hosts ssl/certs/ca-certificates.crt; do cp "/etc/$each" "$root/etc/$each"; done
    exec chroot "$root" sh -c "cd \"\$0\" && exec \"\$@\"" "$here" "$@"
' sh "$root" "$here" "$@"
