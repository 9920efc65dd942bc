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

# Runs a step and shows what it says.
step() { # TITLE COMMAND...
  local title=$1 out=target/test.step begun=$SECONDS status=0
  shift
  printf '\n=== %s\n' "$title" | tee -a "$log"
  "$@" 2>&1 | tee "$out" || status=1
  count "$title" "$out" "$status" "$begun"
}

# Begins a step that goes on beside the next ones, until `join`. What it says is shown then.
beside() { # TITLE COMMAND...
  beside_title=$1 beside_begun=$SECONDS
  shift
  # A process group of its own, so that all of it can be ended.
  set -m
  "$@" >target/test.beside 2>&1 </dev/null &
  set +m
  beside_process=$!
  trap 'kill -- "-$beside_process" 2>/dev/null' EXIT
  printf '\n=== %s: begins, and is shown when it has ended\n' "$beside_title" | tee -a "$log"
}

join() {
  local status=0
  wait "$beside_process" || status=1
  trap - EXIT
  printf '\n=== %s\n' "$beside_title" | tee -a "$log"
  cat target/test.beside
  count "$beside_title" target/test.beside "$status" "$beside_begun"
}

# Adds up what the test binaries of a step have said.
count() { # TITLE OUTPUT STATUS BEGUN
  local title=$1 out=$2 status=$3 begun=$4 step_passed step_failed
  cat "$out" >>"$log"
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
  # Now, so that no step waits for what another one builds.
  step "test programs" cargo_test --no-run $(tests_of svclb-pod) $(tests_of controller) $(tests_of e2e)
  # It waits for the most part.
  beside "controller: a real API server" cargo_test $(tests_of controller)
  step "svclb-pod: packets between namespaces" cargo_test $(tests_of svclb-pod)
  step "svclb-pod: fuzzing, 10 s a target" svclb-pod/fuzz/run.sh 10
  join
  step "whole clusters" cargo_test $(tests_of e2e)
}

echo
if [ ${#failures[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failures[@]}" | tee -a "$log"
  echo "the whole output: $log"
fi
echo "$passed passed, $failed failed" | tee -a "$log"
[ "$failed" = 0 ]
