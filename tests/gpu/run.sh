#!/usr/bin/env bash
# Everything that needs a GPU, in one command and under ten minutes. See --help.
set -uo pipefail
cd "$(dirname "$0")/../.."

usage() {
	cat <<'EOF_USAGE'
usage: tests/gpu/run.sh [--dry-run] [--no-record] [--binaries FOLDER]

Runs on a machine with an NVIDIA GPU: the conformance of every op, the engine's tests on the GPU, the
measurements of copies, kernels and a model of 10 GB under a memory cap, the last beside transformers with
accelerate, and compute-sanitizer where it is installed. Measured lines go to docs/benchmarks/DATE-gpu.jsonl,
with device, driver, date and commit, and a last one says what passed.

It needs the driver and the test binaries: built here where Go is installed, else those of
--binaries (cuda.test, engine.test and a file named commit; "go test -c" makes them). PyTorch gives a rate
to compare with, and with transformers and accelerate a program to compare with, where they are there.

  --dry-run      the stand-in driver of tests/fakecuda and tiny sizes: shows that the suite itself works.
                 Nothing is recorded. MOERING_CUDA_LIBRARY may name another stand-in.
  --no-record    do not write to docs/benchmarks
  --binaries F   take the test binaries from folder F

MOERING_CUDA_LIBRARY names the driver, else it is libcuda.so.1; MOERING_TORCH_PYTHON the Python that has PyTorch,
else it is python3. TMPDIR needs 11 GB for the model.
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
python=${MOERING_TORCH_PYTHON:-python3}
deadline=590 # seconds for everything; a part has what is left of it, at most
failures=0 parts=

say() { printf '\n== %s\n' "$*"; }

# step TITLE SECONDS COMMAND... runs a part of the suite and remembers how it ended.
step() {
	local title=$1 limit=$2 code=124
	shift 2
	say "$title"
	: >"$work/log"
	[ $((deadline - SECONDS)) -ge "$limit" ] || limit=$((deadline - SECONDS))
	if [ "$limit" -gt 0 ]; then
		timeout "$limit" "$@" >"$work/log" 2>&1
		code=$?
	fi
	# A test binary passes too where no test matches, or all are skipped.
	if [ $code -eq 0 ] && ! grep -q -- '--- PASS' "$work/log"; then
		echo "no test ran" >>"$work/log"
		code=1
	fi
	end "$title" $code
}

# end TITLE CODE prints what a part ended with.
end() {
	if [ "$2" -eq 0 ]; then
		grep -E '^(ok|PASS|---|[0-9]+:|\{|=+ (ERROR SUMMARY|RACECHECK))|^ +measure_test.*\{' "$work/log" | tail -n 60
		echo "passed: $1"
		parts="$parts, \"$1\": \"passed\""
	else
		tail -n 60 "$work/log"
		[ "$2" -ne 124 ] || echo "out of time"
		echo "FAILED ($2): $1"
		parts="$parts, \"$1\": \"failed\""
		failures=$((failures + 1))
	fi
}

# skip TITLE WHY
skip() {
	say "$1: skipped, $2"
	parts="$parts, \"$1\": \"skipped: $2\""
}

build() {
	binaries=$work/bin
	mkdir -p "$binaries"
	say "building"
	go test -c -o "$binaries/cuda.test" ./kernels/cuda || exit 1
	go test -c -o "$binaries/engine.test" ./engine || exit 1
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
	local which='TestConformance$'
	[ $dry = no ] || which="$which/(memory|copy|events|ring|norm|attention|matmul)/Q8_0"
	step "conformance" 180 "$binaries/cuda.test" -test.v -test.run "$which"
}

# Tests of the engine read testdata beside them, so they run in their folder.
engine() {
	local which=$engine_tests
	[ $dry = no ] || which='TestTiersAndNeighboursOnCUDA|TestFamiliesOnCUDA/(llama|qwen2moe)$|TestFaultsOnCUDA'
	step "engine" 180 env -C engine "$binaries/engine.test" -test.v -test.run "$which"
}

# torch runs torch_matmul.py; its rate stands beside that of the grouped product.
torch() {
	local title="PyTorch's square product" options=()
	[ $dry = no ] || options=(--dry-run)
	say "$title"
	local line code
	line=$(timeout 90 "$python" tests/gpu/torch_matmul.py "${options[@]}" 2>"$work/log")
	code=$?
	if [ $code -eq 3 ]; then
		skip "$title" "$python has no PyTorch with CUDA"
		return
	fi
	echo "$line" >>"$work/log"
	end "$title" $code
	[ $code -eq 0 ] || return
	MOERING_TORCH_TFLOPS=$(sed -n 's/.*"tflop_per_s": \([0-9.]*\),.*/\1/p' <<<"$line")
	export MOERING_TORCH_TFLOPS
	printf '%s\n' "${line%\}}, \"date\": \"$(date -u +%Y-%m-%dT%H:%M:%SZ)\", \"commit\": \"$MOERING_COMMIT\"}" \
		>>"$results"
}

measure() {
	local size=full
	[ $dry = no ] || size=tiny
	step "measurements of kernels ($size)" 150 env MOERING_MEASURE_FILE="$results" "$binaries/cuda.test" \
		-test.v -test.run 'TestMeasure$' -measure "$size"
	step "measurements of a model ($size)" 180 env -C engine MOERING_MEASURE_FILE="$results" \
		MOERING_MEASURE_MODEL="$work/model" "$binaries/engine.test" \
		-test.v -test.run 'TestMeasureModel$' -measure "$size"
}

# peer measures transformers with accelerate on the model of measure, which is then no longer needed.
peer() {
	local title="transformers with accelerate" options=() code
	[ $dry = no ] || options=(--dry-run)
	if [ ! -d "$work/model" ]; then
		skip "$title" "there is no model"
		return
	fi
	say "$title"
	timeout $((deadline > SECONDS ? deadline - SECONDS : 1)) "$python" tests/gpu/transformers_offload.py \
		"$work/model" "$results" "${options[@]}" >"$work/peer" 2>"$work/log"
	code=$?
	rm -rf "$work/model"
	if [ $code -eq 3 ]; then
		skip "$title" "$(tail -n 1 "$work/log" | tr -d '"\\')"
		return
	fi
	cat "$work/peer" >>"$work/log"
	end "$title" $code
	[ $code -ne 0 ] || cat "$work/peer" >>"$results"
}

# sanitize is last: it takes what time is left. A dry run has the tests without the tool.
sanitize() {
	local tool command title which=.
	[ $dry = no ] || which='^(memory|copy|norm)$'
	for tool in memcheck racecheck; do
		title="compute-sanitizer $tool" command=(compute-sanitizer --tool "$tool" --error-exitcode 9)
		if [ $dry = yes ]; then
			title="the tests of $title" command=()
		elif ! command -v compute-sanitizer >/dev/null; then
			skip "$title" "it is not installed"
			continue
		fi
		step "$title" 120 "${command[@]}" "$binaries/cuda.test" \
			-test.v -test.run "TestConformance\$/$which/$few"
	done
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
[ -z "${MOERING_CUDA_LIBRARY:-}" ] || export MOERING_TEST_DEVICE=cuda # else the tests build the stand-in

step "devices" 60 "$binaries/cuda.test" -test.v -test.run 'TestListDevices$'
[ $failures -eq 0 ] || exit 1 # without a device there is nothing to run
conformance
engine
wrong=$failures # figures of a device that computes wrongly are worth nothing
torch
measure
peer
sanitize

printf '{"what": "suite"%s, "seconds": %d, "driver": "%s", "date": "%s", "commit": "%s"}\n' "$parts" "$SECONDS" \
	"${MOERING_DRIVER:-}" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$MOERING_COMMIT" >>"$results"
tail -n 1 "$results"
if [ $record = yes ] && [ "$wrong" -eq 0 ]; then
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
