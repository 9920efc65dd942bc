#!/bin/sh
# Builds the fuzz targets and runs each of them for so many seconds, on the stable toolchain and
# without cargo-fuzz: its flags for coverage without a sanitizer are all it takes.
#
#   svclb-pod/fuzz/run.sh 20 [target...]
set -eu

seconds=${1:?usage: run.sh SECONDS [TARGET...]}
shift
here=$(cd "$(dirname "$0")" && pwd)
target=$(cd "$here/../.." && pwd)/target/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')

# These flags take the place of the workspace's own, which would link C++ statically.
export RUSTFLAGS="--cfg fuzzing -C passes=sancov-module \
-C llvm-args=-sanitizer-coverage-level=4 \
-C llvm-args=-sanitizer-coverage-inline-8bit-counters \
-C llvm-args=-sanitizer-coverage-pc-table \
-C llvm-args=-sanitizer-coverage-trace-compares"

cargo build --quiet --locked --release --manifest-path "$here/Cargo.toml" \
    --target "$host" --target-dir "$target"

[ $# -gt 0 ] || set -- environment nftables iptables
for name in "$@"; do
    corpus=$target/corpus/$name
    mkdir -p "$corpus" "$target/found"
    set -- -max_total_time="$seconds" -timeout=60 -rss_limit_mb=1024 \
        -artifact_prefix="$target/found/$name-" -print_final_stats=1 -verbosity=0
    if [ -f "$here/$name.dict" ]; then
        set -- "$@" -dict="$here/$name.dict"
    fi
    echo "fuzz $name for $seconds s"
    if ! "$target/$host/release/$name" "$@" "$corpus" >"$target/$name.log" 2>&1; then
        cat "$target/$name.log"
        exit 1
    fi
    grep -E 'number_of_executed_units|average_exec_per_sec' "$target/$name.log"
done
