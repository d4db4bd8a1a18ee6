#!/usr/bin/env bash
# The one door: ./build.sh COMMAND [--help]. Needs Go and a C compiler; nothing is downloaded but
# the modules that go.sum names.
set -euo pipefail
cd "$(dirname "$0")"

model=tests/testdata/tiny/tiny.gguf
test_timeout=8m

usage() {
	cat <<'EOF'
usage: ./build.sh COMMAND [--help]

  build   compile bin/moering
  demo    build, then let the model in the repository write Go, its experts streaming from disk
  test    everything that must pass: format, vet, all tests with and without cgo
  sanitize  the C of kernels/cpu under the address, undefined-behaviour and thread sanitizers
  bench   build, then measure; arguments go to "moering bench"
  lib     the C library in lib/: libmoering.so, libmoering.a, moering.h, moering.pc; or --prefix DIR
  ptx     compile the GPU kernels to kernels/cuda/ptx; with --check, fail where that is stale
  wheel   the Python package, dist/moering-VERSION-py3-none-manylinux_….whl
  lint    vet, and staticcheck at the version that tools/go.mod names
  fmt     format all Go files
EOF
}

say() { printf '== %s\n' "$*" >&2; }

need_go() {
	command -v go >/dev/null ||
		{ echo "build.sh: Go 1.26 or later is needed: https://go.dev/dl" >&2; exit 1; }
}

need_cc() {
	local cc
	cc=$(go env CC)
	command -v "${cc%% *}" >/dev/null ||
		{ echo "build.sh: a C compiler is needed ($cc), for example the package gcc" >&2; exit 1; }
}

go_files() { find . -name '*.go' -not -path './.*' -print0; }

# python_tools NAME REQUIREMENTS [PIP-OPTION]... makes the virtual environment .cache/NAME anew where it
# is not of those requirements.
python_tools() {
	local venv=.cache/$1 wanted=$2
	shift 2
	cmp -s "$wanted" "$venv/requirements.txt" && return
	say "installing $wanted into $venv"
	rm -rf "$venv"
	if ! { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check \
		"$@" -r "$wanted"; }; then
		echo "build.sh: $wanted cannot be installed: this needs python3 with venv, and PyPI" >&2
		return 1
	fi
	cp "$wanted" "$venv/requirements.txt"
}

help_build="compiles bin/moering. With CGO_ENABLED=0 no C compiler is needed, and computing is slow."
cmd_build() {
	if [ "$(go env CGO_ENABLED)" = 1 ]; then need_cc; fi
	go build -o bin/moering ./cmd/moering
}

# number KEY reads a number from the JSON on standard input.
number() { sed -n "s/^ *\"$1\": \([0-9]*\),*$/\1/p" | head -n 1; }

help_demo="builds, then runs the trained model $model under the least memory budget that works and
5 MB more, so that its experts do not fit: they stream from disk. Arguments go to \"moering run\"."
cmd_demo() {
	cmd_build
	local least plan experts room
	least=$(bin/moering inspect -m "$model" --context 512 --json | number least_budget_bytes)
	local ram=$((least + 5000000))
	plan=$(bin/moering inspect -m "$model" --context 512 --ram "$ram" --json)
	experts=$(number expert_bytes <<<"$plan")
	room=$(($(number ring_bytes <<<"$plan") + $(number cache_bytes <<<"$plan")))
	if [ "$room" -ge "$experts" ]; then
		echo "build.sh: the demo's budget has room for all experts ($room of $experts bytes)" >&2
		exit 1
	fi
	bin/moering run -m "$model" --context 512 --ram "$ram" --max-tokens 200 --seed 7 "$@" \
		$'// Copy copies src to dst until an error occurs.\nfunc Copy('
}

help_test="checks the format, vets, builds and tests without cgo, and then tests everything with the
race detector and invariant checks. Needs a C compiler. MOERING_FIXTURES may name a folder with
vocabularies and chat templates of published models; tests that use them are skipped without it.
Python programs that read and embed Moering are tested with the packages of tests/requirements.txt, from
PyPI in .cache/tests; MOERING_PYTHON names another Python that has them. Without python3 they are left out.
At the end the GPU kernels are compiled and assembled (./build.sh ptx --help); MOERING_SKIP_PTX=1 leaves
that out."
cmd_test() {
	need_cc
	say "format"
	local unformatted
	unformatted=$(go_files | xargs -0 gofmt -l)
	if [ -n "$unformatted" ]; then
		printf 'build.sh: not formatted (./build.sh fmt):\n%s\n' "$unformatted" >&2
		exit 1
	fi
	say "vet"
	go vet ./...
	go vet -tags invariants ./...
	if [ -z "${MOERING_PYTHON:-}" ] && command -v python3 >/dev/null; then
		python_tools tests tests/requirements.txt
		MOERING_PYTHON=$(pwd)/.cache/tests/bin/python
		export MOERING_PYTHON
	fi
	say "without cgo"
	CGO_ENABLED=0 go build ./...
	CGO_ENABLED=0 go test -timeout "$test_timeout" ./...
	say "race detector and invariants"
	CGO_ENABLED=1 go test -race -tags invariants -timeout "$test_timeout" "$@" ./...
	if [ "${MOERING_SKIP_PTX:-}" != 1 ]; then
		say "GPU kernels"
		cmd_ptx --check
	fi
}

help_sanitize="runs the tests of kernels/cpu with AddressSanitizer and UndefinedBehaviorSanitizer in their
C, over every instruction set that the machine has, and a hammer of the worker pool under
ThreadSanitizer. With \"memory\" or \"threads\" only that part. Takes some minutes."
cmd_sanitize() {
	need_cc
	tests/sanitize.sh "$@"
}

help_bench="builds, then measures with \"moering bench --json\", by default $model, and prints one line
with date, commit and machine. With --record first, the line is added to docs/benchmarks/results.jsonl."
cmd_bench() {
	local record=no
	if [ "${1:-}" = --record ]; then
		record=yes
		shift
	fi
	cmd_build
	[ $# -gt 0 ] || set -- -m "$model"
	local result line cpu commit
	result=$(bin/moering bench --json "$@" | tr -d '\n' | sed 's/  */ /g')
	cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1 | tr -d '"\\')
	commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
	git diff --quiet HEAD 2>/dev/null || commit=$commit-modified
	line=$(printf '{"date": "%s", "commit": "%s", "cpu": "%s", "processors": %s, "result": %s}' \
		"$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$commit" "${cpu:-unknown}" \
		"$(getconf _NPROCESSORS_ONLN)" "$result")
	printf '%s\n' "$line"
	if [ "$record" = yes ]; then
		mkdir -p docs/benchmarks
		printf '%s\n' "$line" >>docs/benchmarks/results.jsonl
	fi
}

help_lib="makes the C library in lib/, and with --prefix DIR installs it there: include/moering.h,
lib/libmoering.so (a link to libmoering.so.0), lib/libmoering.a, lib/pkgconfig/moering.pc. Programs
find it with \"pkg-config --cflags --libs moering\". Needs a C compiler."
cmd_lib() {
	need_cc
	local prefix=
	while [ $# -gt 0 ]; do
		case $1 in
		--prefix)
			prefix=${2:?--prefix needs a directory}
			shift 2
			;;
		*)
			echo "build.sh: lib: what is \"$1\"?" >&2
			exit 2
			;;
		esac
	done
	local version
	version=$(cat capi/VERSION)
	mkdir -p lib
	shared_library "lib/libmoering.so.$version" libmoering.so.0
	ln -sf "libmoering.so.$version" lib/libmoering.so.0
	ln -sf libmoering.so.0 lib/libmoering.so
	say "lib/libmoering.a"
	CGO_ENABLED=1 go build -buildmode=c-archive -ldflags='-s -w' -o lib/libmoering.a ./capi
	rm -f lib/libmoering.h # written by the Go tool; moering.h is the header
	cp capi/moering.h lib/
	pkg_config "$(pwd)/lib" "$(pwd)/lib" >lib/moering.pc
	[ -n "$prefix" ] || return 0
	mkdir -p "$prefix/lib/pkgconfig" "$prefix/include"
	prefix=$(cd "$prefix" && pwd)
	cp -P lib/libmoering.so* lib/libmoering.a "$prefix/lib/"
	cp capi/moering.h "$prefix/include/"
	pkg_config "$prefix/lib" "$prefix/include" >"$prefix/lib/pkgconfig/moering.pc"
	say "installed in $prefix"
}

# shared_library FILE SONAME links the C library; it exports what moering.h declares.
shared_library() {
	say "$1"
	CGO_ENABLED=1 go build -buildmode=c-shared -o "$1" -ldflags="-s -w -extldflags \
'-Wl,-soname,$2 -Wl,--version-script=$(pwd)/capi/libmoering.map -Wl,-z,now'" ./capi
	rm -f "${1%.*}.h" # written by the Go tool; moering.h is the header
}

# pkg_config LIBDIR INCLUDEDIR prints moering.pc.
pkg_config() {
	cat <<EOF
libdir=$1
includedir=$2

Name: moering
Description: Runs language models that do not fit in memory
Version: $(cat capi/VERSION)
Libs: -L\${libdir} -lmoering
Libs.private: -lpthread -lm -ldl
Cflags: -I\${includedir}
EOF
}

help_ptx="compiles kernels/cuda/*.cu to kernels/cuda/ptx and assembles it for every GPU from sm_80 on.
With --check nothing is written: it fails where a file is stale, or the assembler refuses it. The
compilers are those that tools/cuda-requirements.txt pins, in .cache/cuda; they are downloaded once, 70 MB
from PyPI, which needs python3 with venv. With --verbose it prints what the assembler says."
cmd_ptx() {
	python_tools cuda tools/cuda-requirements.txt --no-deps ||
		{ echo "build.sh: MOERING_SKIP_PTX=1 ./build.sh test leaves the GPU kernels out." >&2; exit 1; }
	.cache/cuda/bin/python tools/ptx.py "$@"
}

help_wheel="makes the Python package in dist/, with the C library inside. Needs a C compiler, Python 3.9
or later and readelf; nothing is downloaded."
cmd_wheel() {
	need_cc
	local tool
	for tool in python3 readelf; do
		command -v "$tool" >/dev/null || { echo "build.sh: $tool is needed" >&2; exit 1; }
	done
	python3 bindings/python/generate.py --check
	mkdir -p .build
	shared_library .build/libmoering.so libmoering.so.0
	python3 bindings/python/wheel.py .build/libmoering.so dist
}

help_lint="vets, and runs staticcheck at the version that tools/go.mod names (downloaded as a module)."
cmd_lint() {
	go vet ./...
	go tool -modfile=tools/go.mod staticcheck ./...
	go tool -modfile=tools/go.mod staticcheck -tags invariants ./...
}

help_fmt="formats all Go files in place."
cmd_fmt() { go_files | xargs -0 gofmt -w; }

command=${1:-}
case $command in
build | demo | test | sanitize | bench | lib | ptx | wheel | lint | fmt)
	shift
	if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
		text=help_$command
		printf './build.sh %s %s\n' "$command" "${!text}"
		exit 0
	fi
	need_go
	"cmd_$command" "$@"
	;;
-h | --help | help)
	usage
	;;
*)
	usage >&2
	exit 2
	;;
esac
