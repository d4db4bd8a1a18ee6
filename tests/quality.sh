#!/usr/bin/env bash
# usage: tests/quality.sh [MODEL]. Prints what formats and integer activations cost in perplexity, as
# lines of JSON for docs/benchmarks: the model's float weights packed in each format, on the tiny
# model's held-out text; with activations in int8 and in float32, and with smaller key-value caches.
# MODEL is by default the shipped one with its weights widened to float32, whose experts Q4_0
# therefore holds exactly; its float32 original, which tests/testdata/tiny/train.py makes (export
# --hf DIR), says more. Takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp)
trap 'rm -f "$out"' EXIT
model= original=shipped
if [ $# -gt 0 ]; then
	model=$(realpath "$1") original=float32
fi
status=0
MOERING_QUALITY=$out MOERING_QUALITY_MODEL=$model go test -count=1 -timeout 2h \
	-run TestIntegerActivationsCostLittlePerplexity ./tests >&2 || status=$?
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1 | tr -d '"\\')
while read -r line; do
	printf '{"what": "quality", "date": "%s", "commit": "%s", "cpu": "%s", "original": "%s", ' \
		"$(date -u +%Y-%m-%d)" "$commit" "${cpu:-unknown}" "$original"
	printf '"result": %s}\n' "$line"
done <"$out"
exit "$status"
