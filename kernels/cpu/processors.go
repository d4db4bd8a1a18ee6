//go:build cgo

package cpu

import (
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
)

// processors returns how many processors the process may use at once: those of its affinity mask,
// and no more than the quotas of its control group and the groups above it allow, rounded up.
func processors() int {
	n := runtime.NumCPU()
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return n
	}
	for line := range strings.Lines(string(groups)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for dir := path.Clean("/" + fields[2]); ; dir = path.Dir(dir) {
			n = min(n, groupProcessors(fields[1], dir, n))
			if dir == "/" {
				break
			}
		}
	}
	return max(n, 1)
}

// groupProcessors returns the quota of one control group, or n where it has none. An empty list of
// controllers is version 2.
func groupProcessors(controllers, dir string, n int) int {
	var quota, period string
	if controllers == "" {
		text, _ := os.ReadFile(path.Join("/sys/fs/cgroup", dir, "cpu.max"))
		fields := strings.Fields(string(text))
		if len(fields) != 2 {
			return n
		}
		quota, period = fields[0], fields[1]
	} else if strings.Contains(","+controllers+",", ",cpu,") {
		base := path.Join("/sys/fs/cgroup/cpu", dir)
		q, _ := os.ReadFile(path.Join(base, "cpu.cfs_quota_us"))
		p, _ := os.ReadFile(path.Join(base, "cpu.cfs_period_us"))
		quota, period = strings.TrimSpace(string(q)), strings.TrimSpace(string(p))
	}
	q, errQuota := strconv.ParseInt(quota, 10, 64)
	p, errPeriod := strconv.ParseInt(period, 10, 64)
	if errQuota != nil || errPeriod != nil || q <= 0 || p <= 0 {
		return n // "max" and -1 are no quota
	}
	return int((q + p - 1) / p)
}
