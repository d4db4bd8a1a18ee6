#!/usr/bin/env bash
# Runs the tests of kernels/cpu with sanitizers in the C sources: AddressSanitizer and
# UndefinedBehaviorSanitizer over every instruction set that the machine has, ThreadSanitizer over the
# worker pool. Needs gcc or clang with their sanitizers; takes a few minutes, most of them compiling.
# With an argument, "memory" or "threads", only that part.
set -euo pipefail
cd "$(dirname "$0")/.."

# Addresses of blocks are of any alignment in model files, and read with memcpy: alignment is checked
# like all the rest. Leaks are not: Go's heap is invisible to the leak checker, and the runtime keeps
# memory until the end.
memory() {
	local flags="-O1 -g -fno-omit-frame-pointer -fsanitize=undefined,float-cast-overflow"
	flags+=" -fno-sanitize-recover=all"
	ASAN_OPTIONS=detect_leaks=0 CGO_CFLAGS="$flags" CGO_LDFLAGS="-fsanitize=undefined" \
		go test -asan -short -count=1 "$@" ./kernels/cpu
}

# ThreadSanitizer looks at the pool, whatever the kernels: those of portable C compile fastest. It
# cannot follow Go's memory, so that the tests are run by a program in C.
threads() {
	local out
	out=$(mktemp -d)
	trap "rm -rf '$out'" EXIT
	"${CC:-gcc}" -std=c11 -O1 -g -Wall -Wextra -Wno-tsan -fsanitize=thread -DMOERING_PORTABLE \
		-Ikernels/cpu -o "$out/pool" tests/pool/pool_test.c kernels/cpu/*.c -lm -lpthread
	TSAN_OPTIONS=halt_on_error=1 "$out/pool"
}

case ${1:-all} in
memory) memory "${@:2}" ;;
threads) threads ;;
all)
	threads
	memory
	;;
*)
	echo "usage: tests/sanitize.sh [memory|threads]" >&2
	exit 2
	;;
esac
