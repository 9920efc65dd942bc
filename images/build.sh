#!/usr/bin/env bash
# Builds images and leaves each as a docker-archive, target/images/NAME.tar. No registry is asked, and
# what has not changed is not built again.
#
# Usage: images/build.sh NAME...
#   pause, echo                  of the test bed
#   svclb-controller, svclb-pod  of the project
#   svclb-images                 the two of the project in one archive, as k3s, k3d and ctr import it
set -euo pipefail

cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
built=$PWD/target/$(rustc --print host-tuple)/release
out=$PWD/target/images
mkdir -p "$out"
export CARGO_TARGET_DIR=$PWD/target

reference() {
  case $1 in
    pause) echo registry.k8s.io/pause:3.10.1 ;; # what containerd is told to start pods with
    echo) echo "localhost/svclb-echo:$version" ;;
    *) echo "localhost/$1:$version" ;;
  esac
}

# The folder of the package that has the program.
folder() {
  case $1 in
    pause | echo) echo e2e/containers ;;
    svclb-controller) echo controller ;;
    *) echo "$1" ;;
  esac
}

# Of all that an image is built from.
sources() {
  local name=$1 folder
  folder=$(folder "$name")
  {
    reference "$name"
    rustc --version
    cat Cargo.toml Cargo.lock .cargo/config.toml "images/$name.Dockerfile" images/build.sh
    find "$folder/src" "$folder/Cargo.toml" $(ls "$folder/build.rs" 2>/dev/null) -type f -print0 | sort -z | xargs -0 cat
  } | sha256sum
}

# Of the sources and of what was built of them: that is to be the very file in the image.
fingerprint() { # NAME SOURCES
  { echo "$2" && cat "$built/$1" 2>/dev/null || true; } | sha256sum
}

# buildah with its storage and its settings here. As root in a mount namespace of its own in which the
# host is read-only, since it leaves a lock and a cache in /etc and /var/lib whatever it is told.
buildah_here() {
  local private=()
  if [ "$(id -u)" = 0 ]; then
    # shellcheck disable=SC2016
    private=(unshare --mount --propagation private sh -c
      'mount --bind target target && mount -o remount,bind,ro / && cd "$PWD" && exec "$@"' -)
  fi
  printf '[network]\nnetwork_config_dir = "%s"\n' "$out/run/networks" >"$out/containers.conf"
  echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$out/policy.json"
  CONTAINERS_CONF=$out/containers.conf TMPDIR=$out \
    "${private[@]}" buildah --root "$out/storage" --runroot "$out/run" --storage-driver vfs \
    --registries-conf /dev/null "$@" 9>&-
}

is_current() {
  [ -e "$out/$1.tar" ] && [ "$(fingerprint "$1" "$(sources "$1")")" = "$(cat "$out/$1.built-from" 2>/dev/null)" ]
}

build() {
  local name=$1 reference sources
  # Before the build: who edits while it runs is to have it built again.
  sources=$(sources "$name")
  # One package at a time: built with others its dependencies would get their features too. Cargo says
  # what it compiles, and nothing when there is nothing to compile.
  cargo build --release --locked --manifest-path "$(folder "$name")/Cargo.toml" \
    2> >(grep --line-buffered -v '^ *Finished' >&2)
  command -v buildah >/dev/null || e2e/packages.sh
  reference=$(reference "$name")
  # The time of every file is fixed: the same inputs give the same image.
  buildah_here build --quiet --isolation chroot --timestamp 0 --signature-policy "$out/policy.json" \
    --file "images/$name.Dockerfile" --tag "$reference" "$built" >/dev/null
  rm -f "$out/$name.new"
  buildah_here push --quiet --signature-policy "$out/policy.json" \
    "$reference" "docker-archive:$out/$name.new:$reference"
  mv "$out/$name.new" "$out/$name.tar"
  fingerprint "$name" "$sources" >"$out/$name.built-from"
  echo "$reference: target/images/$name.tar, $(($(stat -c %s "$out/$name.tar") / 1024)) KiB"
}

# A docker-archive is a manifest.json and the files that it names, each called by its digest.
join() { # ARCHIVE NAME...
  local archive=$1 name entries=
  shift
  local tars=("${@/%/.tar}")
  tars=("${tars[@]/#/$out/}")
  if [ -e "$archive" ] && [ -z "$(find "${tars[@]}" -newer "$archive")" ]; then return; fi
  rm -rf "$out/join" && mkdir "$out/join"
  for name in "$@"; do
    tar -xf "$out/$name.tar" -C "$out/join" --exclude repositories --exclude '*/*'
    local manifest
    manifest=$(cat "$out/join/manifest.json")
    manifest=${manifest#[}
    entries+=${entries:+,}${manifest%]}
  done
  echo "[$entries]" >"$out/join/manifest.json"
  # shellcheck disable=SC2046
  tar -C "$out/join" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$archive.new" \
    $(ls "$out/join")
  mv "$archive.new" "$archive"
  rm -rf "$out/join"
  echo "${archive#"$PWD/"}: $*"
}

names=()
for name in "$@"; do
  case $name in
    pause | echo | svclb-controller | svclb-pod) names+=("$name") ;;
    svclb-images) names+=(svclb-controller svclb-pod) ;;
    *)
      echo "no image is called \"$name\"; there are pause, echo, svclb-controller, svclb-pod and svclb-images" >&2
      exit 2
      ;;
  esac
done
[ ${#names[@]} -gt 0 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }

for name in "${names[@]}"; do
  # Who finds everything done must not wait for others who build.
  is_current "$name" || (
    flock 9
    is_current "$name" || build "$name"
  ) 9>"$out/lock"
done
case " $* " in *" svclb-images "*) join "$out/svclb-images.tar" svclb-controller svclb-pod ;; esac
