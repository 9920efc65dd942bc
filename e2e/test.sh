#!/usr/bin/env bash
# Lint, unit, packet, API-server and cluster tests, the cheap first.
#
# All steps are run, whatever fails. The last line is `N passed, N failed`, where a step that failed
# without a failed test (a lint, a crate that does not compile) counts as one.
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p target
log=target/test.log
: >"$log"

passed=0 failed=0 failures=()

# Runs one step, and adds up what its test binaries say.
step() { # TITLE COMMAND...
  local title=$1 out=target/test.step begun=$SECONDS
  shift
  printf '\n=== %s\n' "$title" | tee -a "$log"
  local status=0
  "$@" 2>&1 | tee "$out" || status=1
  cat "$out" >>"$log"
  local step_passed step_failed
  read -r step_passed step_failed < <(awk '/^test result:/ { p += $4; f += $6 } END { print p + 0, f + 0 }' "$out")
  rm -f "$out"
  if [ "$status" != 0 ]; then
    [ "$step_failed" != 0 ] || step_failed=1
    failures+=("$title")
  fi
  passed=$((passed + step_passed)) failed=$((failed + step_failed))
  printf '=== %s: %d passed, %d failed, %d s\n' "$title" "$step_passed" "$step_failed" $((SECONDS - begun)) | tee -a "$log"
}

# The names of a crate's test binaries, as cargo wants them.
tests_of() {
  local file
  for file in "$1"/tests/*.rs "$1"/tests/*/main.rs; do
    [ -e "$file" ] || continue
    file=${file%/main.rs}
    echo --test "$(basename "${file%.rs}")"
  done
}

# Always the whole workspace, of which only the tests differ: with other packages the dependencies'
# features would differ too, and they would be built again.
cargo_test() { cargo test --workspace --locked --no-fail-fast "$@"; }

prepare() { e2e/packages.sh && e2e/kubernetes/build.sh && images/build.sh pause echo svclb-images; }

step "lint" e2e/lint.sh
# The programs by name: svclb-pod's has no place for a test harness, and `--bins` would run it as one.
step "unit tests" cargo_test --lib --bin echo --test echo --bin svclb-controller --bin svclb-e2e
step "examples in the documentation" cargo_test --doc
step "packages, Kubernetes, images" prepare
# shellcheck disable=SC2046
{
  step "svclb-pod: packets between namespaces" cargo_test $(tests_of svclb-pod)
  step "svclb-pod: fuzzing, 10 s a target" svclb-pod/fuzz/run.sh 10
  step "controller: a real API server" cargo_test $(tests_of controller)
  step "whole clusters" cargo_test $(tests_of e2e)
}

echo
if [ ${#failures[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failures[@]}" | tee -a "$log"
  echo "the whole output: $log"
fi
echo "$passed passed, $failed failed" | tee -a "$log"
[ "$failed" = 0 ]
