#!/bin/sh
# Rehearsals on a fresh machine, by hand, as root: a new root of Debian made by debootstrap, kept in a folder
# outside the repository.
#
#   sh test/fresh/rehearse.sh make FOLDER [SUITE] [TARGET...]   the two commands, from a clone of HEAD
#   sh test/fresh/rehearse.sh alone FOLDER [SUITE]              dist/microdiff alone, with glibc and no more
#
# SUITE is bookworm (make) or bullseye (alone) when left out, TARGETs are `test quickstart`. In the new root
# only git and make are installed first; all else is the business of the set-up. The root is left for a look;
# a second call uses it as it is, so remove it for a fresh one: rm -rf --one-file-system FOLDER.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)

usage() {
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
  exit 2
}
[ $# -ge 2 ] || usage
what=$1 root=$2
shift 2

make_root() { # suite
  if [ -e "$root/etc/debian_version" ]; then return; fi
  command -v debootstrap >/dev/null || { echo 'rehearse: install debootstrap first' >&2 && exit 1; }
  debootstrap --variant=minbase "$1" "$root" >"$root.log" 2>&1 || { tail -n 5 "$root.log" >&2 && exit 1; }
}
inside() { # runs a command in the root with an empty environment, with /proc and the host's name server
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  mount -t proc proc "$root/proc"
  trap 'umount "$root/proc"' EXIT
  chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/root LANG=C.UTF-8 sh -euc "$1"
}

case $what in
  make)
    suite=${1:-bookworm}
    [ $# = 0 ] || shift
    make_root "$suite"
    rm -rf "$root/root/microdiff"
    git clone -q "$here" "$root/root/microdiff"
    # A network with a certificate authority of its own: what this machine trusts, the new one trusts.
    if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
      mkdir -p "$root/etc/ssl/host"
      cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/host/ca.crt"
    fi
    inside "
      export npm_config_cafile=/etc/ssl/host/ca.crt NODE_EXTRA_CA_CERTS=/etc/ssl/host/ca.crt
      . /etc/os-release && echo \"\$PRETTY_NAME, \$(dpkg -l | grep -c ^ii) packages\"
      apt-get update -qq && apt-get install -qq -y --no-install-recommends git make >/dev/null 2>&1
      cd /root/microdiff
      for target in ${*:-test quickstart}; do
        echo \"\$ make \$target\"
        make \$target
      done"
    ;;
  alone)
    make_root "${1:-bullseye}"
    rm -rf "$root/empty"
    mkdir "$root/empty"
    cp "$here/dist/microdiff" "$root/empty/"
    inside '
      . /etc/os-release && echo "$PRETTY_NAME, $(ldd --version | sed -n 1p)"
      cd /empty
      for words in --version doctor "train tiny --steps 4 -o run" \
        "sample \"a red apple, fluent 3d style\" -o apple.png"; do
        echo "\$ ./microdiff $words"
        eval "./microdiff $words"
      done
      ls -l /empty'
    ;;
  *) usage ;;
esac
