#!/usr/bin/env bash
# Compares Moering, streaming under a memory limit, with what disk and processor would allow, in turns
# in one run.
#
#   tests/roofs.sh MODEL LIMIT_MIB [SEQUENCES [ROUNDS]]
#
# Each round takes fio's direct reads of the model's file (of the size of an expert group, 16 at a time),
# Moering's decode under the limit, and its decode with everything in memory. The roof of I/O is the
# disk's speed by the bytes that a token had to read, where the disk's speed is fio's, or Moering's while
# it reads, whichever is higher; that of computing is the resident speed. "read_share" is the speed of the
# streaming run's reads while there are any, by fio's. PROMPT and GEN are tokens,
# MOERING_BENCH further flags of "moering bench". The limit is a control group (see tests/limited.bash).
# Prints a JSON line a round, and last the medians. Needs fio, and memory for the whole model.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/limited.bash

model=${1:?"a GGUF file"}
limit=${2:?"MiB of memory"}
sequences=${3:-1}
rounds=${4:-5}
command -v fio >/dev/null || { echo "roofs.sh: fio is needed, for example the package fio" >&2; exit 1; }

group=$(bin/moering inspect -m "$model" --json | number group_bytes)
by_fio() { # prints bytes a second
	fio --name=roof --filename="$model" --readonly --rw=randread --direct=1 --bs=$((group / 4096 * 4096)) \
		--ioengine=io_uring --fixedbufs=1 --registerfiles=1 --iodepth=16 --norandommap --randrepeat=0 \
		--time_based --runtime=4 --output-format=terse --terse-version=3 |
		awk -F';' '$1 == 3 { printf "%.0f", $7 * 1024 }'
}
by_moering() { # LIMIT FLAG...
	local to=$1
	shift
	# shellcheck disable=SC2086
	limited "$to" "$model" bin/moering bench -m "$model" --prompt-tokens "${PROMPT:-128}" \
		--gen-tokens "${GEN:-16}" --sequences "$sequences" --repetitions 1 --warmup 1 --seed "$round" \
		--json "$@" ${MOERING_BENCH:-} 2>/dev/null
}

reads=() shares=()
for round in $(seq "$rounds"); do
	disk=$(by_fio)
	streaming=$(by_moering "$limit" --ram "${limit}MiB")
	resident=$(by_moering 0)
	decode=$(number decode_tokens_per_s <<<"$streaming")
	line=$(awk -v round="$round" -v limit="$limit" -v sequences="$sequences" -v disk="$disk" -v decode="$decode" \
		-v bytes="$(number bytes_read_per_token <<<"$streaming")" \
		-v read="$(number read_busy_bytes_per_s <<<"$streaming")" \
		-v wait="$(number wait_share <<<"$streaming")" \
		-v compute="$(number decode_tokens_per_s <<<"$resident")" 'BEGIN {
			io = bytes > 0 ? (read > disk ? read : disk) / bytes : compute; roof = io < compute ? io : compute
			printf "{\"round\": %d, \"limit_mib\": %d, \"sequences\": %d, ", round, limit, sequences
			printf "\"fio_bytes_per_s\": %.0f, \"read_bytes_per_s\": %.0f, \"read_share\": %.3f, ",
				disk, read, read / disk
			printf "\"bytes_read_per_token\": %.0f, \"wait_share\": %.3f, \"decode\": %.3f, ", bytes, wait, decode
			printf "\"io_roof\": %.3f, \"compute_roof\": %.3f, \"roof_share\": %.3f}", io, compute, decode / roof }')
	echo "$line"
	reads+=("$(number read_share <<<"$line")") shares+=("$(number roof_share <<<"$line")")
done
printf '{"medians": true, "rounds": %s, "limit_mib": %s, "sequences": %s, "read_share": %s, "roof_share": %s}\n' \
	"$rounds" "$limit" "$sequences" "$(printf '%s\n' "${reads[@]}" | median)" \
	"$(printf '%s\n' "${shares[@]}" | median)"
