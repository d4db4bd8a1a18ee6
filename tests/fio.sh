#!/usr/bin/env bash
# Compares Moering's readers with fio: direct reads at random places of one file, of the same size
# and depth, in turns on one machine. Prints one JSON line; the file is only read.
set -euo pipefail

usage() {
	cat <<'TEXT'
usage: tests/fio.sh FILE

  FILE should be several gigabytes, so that no cache below the system holds it. From the environment:
    ROUNDS  of fio, io_uring and the pread pool, one after the other (default 7, at least 5)
    SIZE    bytes of one read (default 1048576)
    DEPTH   reads in flight (default 4)
    EACH    seconds of each measurement (default 2)

  ratio is the median over the rounds of Moering's speed by fio's in the same round. The processor
  shares are in percent of one core, of the whole process, at 2 GB/s. Needs fio and Go.
TEXT
}

[ $# -eq 1 ] || { usage >&2; exit 2; }
case $1 in -h | --help) usage; exit 0 ;; esac
file=$(realpath "$1")
[ -f "$file" ] || { echo "fio.sh: $1 is not a file" >&2; exit 2; }
rounds=${ROUNDS:-7} size=${SIZE:-1048576} depth=${DEPTH:-4} each=${EACH:-2}
[ "$rounds" -ge 5 ] || { echo "fio.sh: at least 5 rounds" >&2; exit 2; }
command -v fio >/dev/null || { echo "fio.sh: fio is needed, for example the package fio" >&2; exit 1; }
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go test -c -o "$work/reader.test" ./offload/reader

# Both functions print megabytes per second and percent of a core at 2 GB/s.
by_fio() {
	fio --name=reader --filename="$file" --readonly --rw=randread --direct=1 --bs="$size" \
		--ioengine=io_uring --fixedbufs=1 --registerfiles=1 --iodepth="$depth" --norandommap \
		--randrepeat=0 --time_based --runtime="$each" --output-format=terse --terse-version=3 |
		awk -F';' '$1 == 3 { speed = $7 * 1024 / 1e6; sub("%", "", $88); sub("%", "", $89)
			print speed, (speed ? ($88 + $89) / speed * 2000 : 0) }'
}
by_moering() {
	MOERING_READER_FILE=$file MOERING_READER_BYTES=$size MOERING_READER_DEPTH=$depth \
		"$work/reader.test" -test.run '^$' -test.bench "^BenchmarkReader\$/^$1\$" \
		-test.benchtime "${each}s" |
		awk '/^BenchmarkReader/ { for (i = 3; i < NF; i += 2) value[$(i + 1)] = $i
			print value["MB/s"], value["core-%-at-2GB/s"] }'
}

for ((round = 1; round <= rounds; round++)); do
	for who in fio uring pread; do
		if [ "$who" = fio ]; then result=$(by_fio); else result=$(by_moering "$who"); fi
		[ -n "$result" ] || { echo "fio.sh: no result from $who" >&2; exit 1; }
		echo "$round $who $result" | tee -a "$work/results" >&2
	done
done

# column WHO AWK-EXPRESSION prints the median over the rounds; $3 is the speed, $4 the share and fio
# that round's speed by fio.
column() {
	awk -v who="$1" "\$2 == \"fio\" { fio = \$3 } \$2 == who { print $2 }" "$work/results" | sort -n |
		awk '{ v[NR] = $1 } END { printf "%.3f", (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'
}
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1 | tr -d '"\\')
printf '{"what": "reader beside fio", "date": "%s", "commit": "%s", "cpu": "%s", "processors": %s, ' \
	"$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$commit" "$cpu" "$(getconf _NPROCESSORS_ONLN)"
printf '"file_bytes": %s, "read_bytes": %s, "depth": %s, "rounds": %s, "fio_mb_s": %s, ' \
	"$(stat -c %s "$file")" "$size" "$depth" "$rounds" "$(column fio '$3')"
printf '"fio_core_percent_at_2gb_s": %s' "$(column fio '$4')"
for who in uring pread; do
	printf ', "%s_mb_s": %s, "%s_ratio": %s, "%s_core_percent_at_2gb_s": %s' \
		"$who" "$(column $who '$3')" "$who" "$(column $who '$3 / fio')" "$who" "$(column $who '$4')"
done
printf '}\n'
