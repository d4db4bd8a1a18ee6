# Sourced by comparisons: what they share.

# limited MIB FILE COMMAND... runs a command in a control group (version 1, so as root) with so much
# memory; 0 is no limit. FILE's pages leave the page cache first: pages of the model that another group
# has paid for would be no burden to this one.
limited() {
	local limit=$1 file=$2 group=/sys/fs/cgroup/memory/moering-$$ status=0
	shift 2
	if [ "$limit" = 0 ]; then
		"$@"
		return
	fi
	dd if="$file" iflag=nocache count=0 2>/dev/null
	mkdir "$group"
	echo $((limit << 20)) >"$group/memory.limit_in_bytes"
	(
		echo "$BASHPID" >"$group/cgroup.procs"
		exec "$@"
	) || status=$?
	rmdir "$group"
	return "$status"
}

# number KEY prints the first number of that key in the JSON on standard input.
number() { sed -n "/\"$1\":/{s/.*\"$1\": *\([0-9.e+-]*\).*/\1/p;q}"; }

# median prints the median of the numbers on standard input, one a line.
median() { sort -g | awk '{v[NR]=$1} END {printf "%.3f", v[int((NR+1)/2)]}'; }
