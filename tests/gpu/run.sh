#!/usr/bin/env bash
# Everything that needs a GPU, in one command and under ten minutes. See --help.
set -uo pipefail
cd "$(dirname "$0")/../.."

usage() {
	cat <<'EOF_USAGE'
usage: tests/gpu/run.sh [--dry-run] [--no-record] [--binaries FOLDER]

Runs on a machine with an NVIDIA GPU: the conformance of every op, the engine's tests on the GPU,
compute-sanitizer where it is installed, and the measurements. Measured lines go to
docs/benchmarks/DATE-gpu.jsonl, with device, driver, date and commit.

It needs the driver and the test binaries: built here where Go is installed, else those of
--binaries (cuda.test, engine.test and a file named commit; "go test -c" makes them). PyTorch, where
python3 has it, gives a rate to compare with.

  --dry-run      the stand-in driver of tests/fakecuda and tiny sizes: shows that the suite itself works.
                 Nothing is recorded. MOERING_CUDA_LIBRARY may name another stand-in.
  --no-record    do not write to docs/benchmarks
  --binaries F   take the test binaries from folder F

MOERING_CUDA_LIBRARY names the driver, else it is libcuda.so.1.
EOF_USAGE
}

dry=no record=yes binaries=
while [ $# -gt 0 ]; do
	case $1 in
	--dry-run) dry=yes record=no ;;
	--no-record) record=no ;;
	--binaries)
		shift
		binaries=${1:?run.sh: --binaries needs a folder}
		;;
	-h | --help)
		usage
		exit 0
		;;
	*)
		usage >&2
		exit 2
		;;
	esac
	shift
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
results=$work/results.jsonl
touch "$results"
failures=0

say() { printf '\n== %s\n' "$*"; }

# step TITLE SECONDS COMMAND... runs a part of the suite and remembers a failure.
step() {
	local title=$1 limit=$2
	shift 2
	say "$title"
	timeout "$limit" "$@" >"$work/log" 2>&1
	local code=$?
	if [ $code -eq 0 ]; then
		grep -E '^(ok|PASS|---|[0-9]+:|=+ (ERROR SUMMARY|RACECHECK))|^ +measure_test.*\{' "$work/log" | tail -n 60
		echo "passed: $title"
	else
		tail -n 60 "$work/log"
		echo "FAILED ($code): $title"
		failures=$((failures + 1))
	fi
}

build() {
	binaries=$work/bin
	mkdir -p "$binaries"
	say "building"
	go test -c -o "$binaries/cuda.test" ./kernels/cuda || exit 1
	[ $dry = yes ] || go test -c -o "$binaries/engine.test" ./engine || exit 1
	local commit
	commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
	git diff --quiet HEAD 2>/dev/null || commit=$commit-modified
	echo "$commit" >"$binaries/commit"
}

# The engine's tests that run on the device that MOERING_TEST_DEVICE names: golden logits, and the
# invariants of docs/design.md. A part of a test's name; a run in which none matches fails.
engine_tests='OnCUDA'

# The weight types that sanitizer and dry run take; a name without a type always matches.
few='(Q8_0|Q4_K|BF16)$'

conformance() {
	local tests='TestConformance$'
	[ $dry = no ] || tests="$tests/(memory|copy|events|ring|norm|attention|matmul)/Q8_0"
	step "conformance" 180 "$binaries/cuda.test" -test.run "$tests" -test.v
}

# They read testdata beside them, so they run in their folder.
engine() {
	if ! grep -qs MOERING_TEST_DEVICE engine/*_test.go; then
		say "engine: skipped, its tests do not ask for a device (MOERING_TEST_DEVICE)"
		return
	fi
	[ $dry = no ] || return 0 # every run of the test suite has them on the stand-in
	local binary
	binary=$(realpath "$binaries/engine.test")
	step "engine" 180 env -C engine MOERING_TEST_DEVICE=cuda "$binary" -test.run "$engine_tests" \
		-test.v
	if ! grep -q '^--- PASS' "$work/log"; then
		echo "FAILED: no test of the engine matches $engine_tests"
		failures=$((failures + 1))
	fi
}

sanitize() {
	if [ $dry = yes ] || ! command -v compute-sanitizer >/dev/null; then
		say "compute-sanitizer: skipped, it is not installed (or this is a dry run)"
		return
	fi
	local tool
	for tool in memcheck racecheck; do
		step "compute-sanitizer $tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 9 \
			"$binaries/cuda.test" -test.run "TestConformance\$/./$few"
	done
}

torch() {
	say "PyTorch"
	[ $dry = no ] || { echo "skipped: a dry run"; return; }
	local line
	if line=$(timeout 90 python3 tests/gpu/torch_matmul.py 2>/dev/null); then
		echo "$line"
		MOERING_TORCH_TFLOPS=$(sed -n 's/.*"tflop_per_s": \([0-9.]*\),.*/\1/p' <<<"$line")
		export MOERING_TORCH_TFLOPS
		printf '%s\n' "${line%\}}, \"date\": \"$(date -u +%Y-%m-%dT%H:%M:%SZ)\", \"commit\": \"$MOERING_COMMIT\"}" \
			>>"$results"
	else
		echo "skipped: python3 has no PyTorch with CUDA"
	fi
}

measure() {
	local size=full
	[ $dry = no ] || size=tiny
	step "measurements ($size)" 180 env MOERING_MEASURE_FILE="$results" "$binaries/cuda.test" \
		-test.run 'TestMeasure$' -test.v -measure "$size"
}

if [ -z "$binaries" ]; then
	command -v go >/dev/null ||
		{ echo "run.sh: without Go, --binaries must name a folder with the test binaries" >&2; exit 2; }
	build
fi
binaries=$(realpath "$binaries")
MOERING_COMMIT=$(cat "$binaries/commit" 2>/dev/null || echo unknown)
export MOERING_COMMIT
if [ $dry = no ]; then
	export MOERING_CUDA_LIBRARY=${MOERING_CUDA_LIBRARY:-libcuda.so.1}
	MOERING_DRIVER=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
	export MOERING_DRIVER
fi

step "devices" 60 "$binaries/cuda.test" -test.run 'TestListDevices$'
[ $failures -eq 0 ] || exit 1 # without a device there is nothing to run
conformance
engine
sanitize
torch
measure

if [ $record = yes ] && [ $failures -eq 0 ]; then
	mkdir -p docs/benchmarks
	file=docs/benchmarks/$(date -u +%F)-gpu.jsonl
	cat "$results" >>"$file"
	say "recorded $(wc -l <"$results") lines in $file"
elif [ $dry = yes ]; then
	say "a dry run on the stand-in: $(wc -l <"$results") lines, which say nothing of speed, are dropped"
fi
if [ $failures -gt 0 ]; then
	say "$failures parts FAILED"
	exit 1
fi
say "all passed in ${SECONDS} s"
