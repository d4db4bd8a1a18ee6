#!/usr/bin/env bash
# Compares Moering with llama.cpp on one model under one memory limit, in turns, in one run.
#
#   tests/peers/llamacpp.sh PYTHON MODEL [LIMIT_MIB [SEQUENCES [ROUNDS]]]
#
# PYTHON is an interpreter with llama-cpp-python. LIMIT_MIB 0 (the default) is no limit; otherwise both
# run in a control group (version 1, so as root) of that size, and Moering has it as its budget.
# MOERING_BENCH are further flags of "moering bench", such as --kv-type f16; PROMPT and GEN are tokens.
# Prints a JSON line a round, and last the medians and their ratio.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${1:?"the Python that has llama-cpp-python"}
model=${2:?"a GGUF file"}
limit=${3:-0}
sequences=${4:-1}
rounds=${5:-5}
prompt=${PROMPT:-128}
gen=${GEN:-16}
. tests/limited.bash

budget=() repack=()
if [ "$limit" != 0 ]; then budget=(--ram "${limit}MiB") repack=(--no-repack); fi
declare -a ours_prefill ours_decode peer_prefill peer_decode
for round in $(seq "$rounds"); do
	# shellcheck disable=SC2086
	ours=$(limited "$limit" "$model" bin/moering bench -m "$model" "${budget[@]}" --prompt-tokens "$prompt" \
		--gen-tokens "$gen" --sequences "$sequences" --repetitions 1 --warmup 1 --seed "$round" \
		--json ${MOERING_BENCH:-} 2>/dev/null)
	peer=$(limited "$limit" "$model" "$python" tests/peers/llamacpp.py "$model" --prompt-tokens "$prompt" \
		--gen-tokens "$gen" --sequences "$sequences" --seed "$round" "${repack[@]}")
	op=$(number prefill_tokens_per_s <<<"$ours")
	od=$(number decode_tokens_per_s <<<"$ours")
	pp=$(number prefill_tokens_per_s <<<"$peer")
	pd=$(number decode_tokens_per_s <<<"$peer")
	ours_prefill+=("$op") ours_decode+=("$od") peer_prefill+=("$pp") peer_decode+=("$pd")
	printf '{"round": %s, "limit_mib": %s, "sequences": %s, "moering": {"prefill": %s, "decode": %s, ' \
		"$round" "$limit" "$sequences" "$op" "$od"
	printf '"hit_rate": %s, "read_bytes_per_s": %s, "bytes_read_per_token": %s, "wait_share": %s, ' \
		"$(number hit_rate <<<"$ours")" "$(number read_bytes_per_s <<<"$ours")" \
		"$(number bytes_read_per_token <<<"$ours")" "$(number wait_share <<<"$ours")"
	printf '"memory_peak_bytes": %s}, "llamacpp": {"prefill": %s, "decode": %s}}\n' \
		"$(number memory_peak_bytes <<<"$ours")" "$pp" "$pd"
done
mop=$(printf '%s\n' "${ours_prefill[@]}" | median)
mod=$(printf '%s\n' "${ours_decode[@]}" | median)
mpp=$(printf '%s\n' "${peer_prefill[@]}" | median)
mpd=$(printf '%s\n' "${peer_decode[@]}" | median)
awk -v a="$mop" -v b="$mpp" -v c="$mod" -v d="$mpd" -v l="$limit" -v s="$sequences" -v r="$rounds" \
	'BEGIN {printf "{\"medians\": true, \"rounds\": %d, \"limit_mib\": %d, \"sequences\": %d, \"prefill\": [%.2f, %.2f], \"prefill_ratio\": %.2f, \"decode\": [%.2f, %.2f], \"decode_ratio\": %.2f}\n", r, l, s, a, b, a/b, c, d, c/d}'
