#!/usr/bin/env bash
# Builds Kubernetes (one binary) and leaves a link for each component in target/kubernetes/bin/.
# Does nothing when neither the sources here nor the Go toolchain have changed.
set -euo pipefail

version=v1.34.10 # of k8s.io/kubernetes in go.mod; without it nodes report "v0.0.0-master"
components="etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl"

sources=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$sources/../.." && pwd)/target/kubernetes
mkdir -p "$out/bin"
cd "$sources"

if ! command -v go >/dev/null; then
  echo "The Go toolchain is missing; Kubernetes is built from its sources (Go 1.26 or newer, https://go.dev/dl/)." >&2
  exit 1
fi

wanted=$({ go version && cat ./*.go go.mod go.sum build.sh; } | sha256sum)
is_current() { [ "$wanted" = "$(cat "$out/built-from" 2>/dev/null)" ]; }
# Who finds everything done must not wait for others who build.
! is_current || exit 0
exec 9>"$out/lock"
if ! flock --nonblock 9; then
  echo "Waiting for another build of Kubernetes to end"
  flock 9
fi
! is_current || exit 0

# Runs a command whose every line on stderr that begins with PREFIX is a step, and says how many there
# were so far: in place on a terminal, else a line every 15 seconds. All of stderr goes to the log.
counted() { # WHAT PREFIX COMMAND...
  local what=$1 prefix=$2
  shift 2
  "$@" 2> >(
    count=0 said=$SECONDS start=$SECONDS
    while read -r line; do
      echo "$line" >>"$out/log"
      case $line in "$prefix"*) count=$((count + 1)) ;; *) continue ;; esac
      if [ -t 2 ]; then
        printf '\r  %s: %d, %d s ' "$what" $count $((SECONDS - start)) >&2
      elif [ $((SECONDS - said)) -ge 15 ]; then
        said=$SECONDS
        printf '  %s: %d, %d s\n' "$what" $count $((SECONDS - start)) >&2
      fi
    done
    if [ -t 2 ] && [ $count -gt 0 ]; then echo >&2; fi
  )
}

failed() {
  tail -n 20 "$out/log" >&2
  echo "Kubernetes could not be built; the whole output is in $out/log" >&2
  exit 1
}

echo "Building Kubernetes $version (about 7 minutes on two cores the first time)"
: >"$out/log"
export CGO_ENABLED=0
counted "modules downloaded" "go: downloading" go list -deps . >"$out/packages" || failed

stamp=
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  stamp+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=34 -X $package.gitTreeState=clean"
done
# With -v every line on stderr is a package that was compiled; what the build cache has is not said.
counted "packages compiled, of at most $(wc -l <"$out/packages")" "" \
  go build -v -trimpath -ldflags "-s -w$stamp" -o "$out/kubernetes.new" . || failed

mv "$out/kubernetes.new" "$out/kubernetes"
for component in $components; do
  ln -sf ../kubernetes "$out/bin/$component"
done
echo "$wanted" >"$out/built-from"
echo "Kubernetes $version is built: $(du -m "$out/kubernetes" | cut -f1) MB, after $SECONDS s"
