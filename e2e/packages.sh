#!/usr/bin/env bash
# Brings the system's packages that the test bed, the images, the benchmarks and the fuzzer need.
#
# Usage: e2e/packages.sh [COMMAND...]   further commands, each in a package of its own name
#
# Says what is missing (asked by command, so that a containerd or iptables from elsewhere counts),
# and installs it on Debian and Ubuntu when run as root. Elsewhere it names what is needed and stops.
# No service of the host is started, now or at the next boot, and no configuration is touched.
set -euo pipefail

# Debian's own places for system commands, which a user's PATH may lack.
PATH=$PATH:/usr/sbin:/sbin
root=$(cd "$(dirname "$0")/.." && pwd)
log=$root/target/packages.log
policy=/usr/sbin/policy-rc.d # of the host: whether packages may start services (invoke-rc.d(8))

# What must be there | the package of Debian and Ubuntu that has it.
needed="
containerd      containerd
ctr             containerd
runc            runc
cni:bridge      containernetworking-plugins
cni:portmap     containernetworking-plugins
iptables-nft    iptables
iptables-legacy iptables
nft             nftables
conntrack       conntrack
buildah         buildah
ip              iproute2
nsenter         util-linux
mount           mount
sysctl          procps
modprobe        kmod
busybox         busybox-static
curl            curl
c++             g++
"
for command in "$@"; do needed+="$command $command"$'\n'; done

present() {
  case $1 in
    cni:*) [ -x "/usr/lib/cni/${1#cni:}" ] || [ -x "/opt/cni/bin/${1#cni:}" ] ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

# Sets `commands` and `packages` to what is missing.
look() {
  commands=() packages=()
  local command package
  while read -r command package; do
    if [ -z "$command" ] || present "$command"; then continue; fi
    commands+=("$command")
    case " ${packages[*]-} " in *" $package "*) ;; *) packages+=("$package") ;; esac
  done <<<"$needed"
}

placeholder='# Nothing but a place for a mount, by e2e/packages.sh of svclb.'
is_placeholder() { [ -w "$policy" ] && grep -qxF "$placeholder" "$policy"; }

# Whoever uses the placeholder has a lock on it, which the kernel drops: if there is none, a call that
# was killed has left it.
remove_placeholder() {
  is_placeholder || return 0
  exec 8<"$policy"
  if flock --nonblock 8; then rm -f "$policy"; fi
  exec 8<&-
}

# Installs with a policy that starts no service. The policy is seen by this apt-get alone: it is
# bind-mounted in a mount namespace of its own, over the host's policy where it has one. Where it has
# none the mount needs a file to lie on: a placeholder that nobody executes, removed afterwards.
apt_install() {
  local ours=$root/target/policy-rc.d status=0
  printf '#!/bin/sh\nexit 101\n' >"$ours"
  chmod +x "$ours"
  if [ ! -e "$policy" ]; then echo "$placeholder" >"$policy"; fi
  if is_placeholder; then
    trap remove_placeholder EXIT
    exec 8<"$policy"
    flock --shared 8
  fi
  # needrestart (Ubuntu) would restart services whose libraries have changed.
  DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
    unshare --mount --propagation private sh -c 'mount --bind "$1" "$2" && shift 2 && exec "$@"' - \
    "$ours" "$policy" \
    apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" 2>&1 </dev/null |
    tr -d '\r' | tee -a "$log" | sed -un 's/^Setting up \([^ ]*\) (\(.*\)) \.\.\.$/  \1 \2/p' || status=$?
  rm -f "$ours"
  return $status
}

remove_placeholder
look
[ ${#commands[@]} -gt 0 ] || exit 0

echo "Missing on this system: ${commands[*]}"
if ! command -v apt-get >/dev/null; then
  echo "This script knows apt alone. Install what provides the above (on Debian: ${packages[*]}) and try again." >&2
  exit 1
fi
if [ "$(id -u)" != 0 ]; then
  echo "As root, run: apt-get install --no-install-recommends ${packages[*]}" >&2
  exit 1
fi

mkdir -p "$root/target"
exec 9>"$root/target/packages.lock"
flock 9 # another call may be installing the same
look
[ ${#commands[@]} -gt 0 ] || exit 0

echo "Installing ${packages[*]}"
: >"$log"
update() { apt-get update -q >>"$log" 2>&1; }
failed() {
  tail -n 15 "$log" >&2
  echo "apt-get did not succeed; its whole output is in $log" >&2
  exit 1
}
compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null || update || failed
brings_containerd=$(printf '%s\n' "${packages[@]}" | grep -x containerd || true)
# Lists that are out of date name versions that are gone: once more with new ones.
apt_install "${packages[@]}" || { update && apt_install "${packages[@]}"; } || failed
if [ -n "$brings_containerd" ] && command -v systemctl >/dev/null; then
  # It is wanted as a program; the package would have it started at the next boot.
  systemctl disable containerd.service >>"$log" 2>&1 || failed
fi

look
if [ ${#commands[@]} -gt 0 ]; then
  echo "Still missing after the installation: ${commands[*]}; see $log" >&2
  exit 1
fi
