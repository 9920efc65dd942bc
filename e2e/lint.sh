#!/usr/bin/env bash
# Formatting and lints of all that is written here. A warning is an error.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --all --check
cargo fmt --manifest-path svclb-pod/fuzz/Cargo.toml --check
cargo clippy --workspace --all-targets --locked -- -D warnings
unformatted=$(gofmt -l e2e/kubernetes)
if [ -n "$unformatted" ]; then
  echo "not formatted by gofmt: $unformatted" >&2
  exit 1
fi
