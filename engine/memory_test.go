package engine

import (
	"slices"
	"testing"
)

// The limit of a group within the hierarchy is found, of both versions of control groups.
func TestLimitsOfControlGroupsAreFound(t *testing.T) {
	for groups, want := range map[string]string{
		"9:memory:/jobs/a\n":               "/sys/fs/cgroup/memory/jobs/a/memory.limit_in_bytes",
		"4:cpu,memory:/a\n":                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
		"0::/user.slice/x\n":               "/sys/fs/cgroup/user.slice/memory.max",
		"3:cpu:/b\n0::/../escape\nrubbish": "/sys/fs/cgroup/escape/memory.max",
		"":                                 "/sys/fs/cgroup/memory.max",
	} {
		if got := limitFiles(groups); !slices.Contains(got, want) {
			t.Errorf("%q: %v, without %s", groups, got, want)
		}
	}
	if got := limitFiles("3:cpu:/b\n"); len(got) != 2 {
		t.Errorf("%v", got)
	}
}
