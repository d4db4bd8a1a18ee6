//go:build cgo

package cpu

import (
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// system is what the kernel says about the processors of this process.
type system struct {
	files fs.FS // the root directory, of which /proc and /sys are read
	mask  []int // processors that the process may run on, ascending
}

// thisSystem asks the kernel. Where the affinity mask cannot be had, all processors count.
func thisSystem() system {
	s := system{files: os.DirFS("/")}
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) == nil {
		for i := range len(set) * strconv.IntSize {
			if set.IsSet(i) {
				s.mask = append(s.mask, i)
			}
		}
	}
	if len(s.mask) == 0 { // or more processors than a set holds
		for i := range runtime.NumCPU() {
			s.mask = append(s.mask, i)
		}
	}
	return s
}

func (s system) read(name string) string {
	text, err := fs.ReadFile(s.files, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// processors returns how many threads can run at once: as many as processors in the affinity mask,
// which a control group's set of processors is part of, and no more than the quotas of the control
// group and the groups above it allow, rounded up.
func (s system) processors() int {
	n := len(s.mask)
	for line := range strings.Lines(s.read("proc/self/cgroup")) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		// In a container the path may be that of the host, and its own group the root.
		for dir := path.Clean("/" + fields[2]); ; dir = path.Dir(dir) {
			n = min(n, s.quota(fields[1], dir, n))
			if dir == "/" {
				break
			}
		}
	}
	return max(n, 1)
}

// quota returns the quota of one control group, or n where it has none. An empty list of
// controllers is version 2, which lies in a directory of its own beside version 1.
func (s system) quota(controllers, dir string, n int) int {
	const root = "sys/fs/cgroup"
	if controllers == "" {
		for _, base := range []string{root, root + "/unified"} {
			fields := strings.Fields(s.read(path.Join(base, dir, "cpu.max")))
			if len(fields) == 2 {
				return share(fields[0], fields[1], n)
			}
		}
		return n
	}
	if !slices.Contains(strings.Split(controllers, ","), "cpu") {
		return n
	}
	for _, base := range []string{root + "/cpu", root + "/" + controllers} {
		quota := s.read(path.Join(base, dir, "cpu.cfs_quota_us"))
		if quota != "" {
			return share(quota, s.read(path.Join(base, dir, "cpu.cfs_period_us")), n)
		}
	}
	return n
}

// share returns quota/period rounded up; n for "max" and -1, which are no quota.
func share(quota, period string, n int) int {
	q, errQuota := strconv.ParseInt(quota, 10, 64)
	p, errPeriod := strconv.ParseInt(period, 10, 64)
	if errQuota != nil || errPeriod != nil || q <= 0 || p <= 0 {
		return n
	}
	return int(min((q-1)/p+1, int64(n)))
}

// node is a NUMA node: processors with memory of their own.
type node struct {
	id         int
	processors []int32 // of the affinity mask, ascending
}

// nodes returns the nodes that have processors of the mask, by number; nil where there is one.
func (s system) nodes() []node {
	const root = "sys/devices/system/node"
	entries, err := fs.ReadDir(s.files, root)
	if err != nil {
		return nil
	}
	var nodes []node
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), "node")
		id, err := strconv.Atoi(digits)
		if !ok || err != nil || id < 0 {
			continue
		}
		n := node{id: id}
		for _, p := range parseList(s.read(path.Join(root, e.Name(), "cpulist"))) {
			if _, ours := slices.BinarySearch(s.mask, p); ours {
				n.processors = append(n.processors, int32(p))
			}
		}
		if len(n.processors) > 0 {
			nodes = append(nodes, n)
		}
	}
	if len(nodes) < 2 {
		return nil
	}
	slices.SortFunc(nodes, func(a, b node) int { return a.id - b.id })
	return nodes
}

// processorsMax bounds the numbers in a list of processors.
const processorsMax = 1 << 16

// parseList reads a list like "0-3,8", as the kernel writes them; nil for anything else.
func parseList(text string) (list []int) {
	if text == "" {
		return nil
	}
	for _, part := range strings.Split(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.Atoi(first)
		b, errB := strconv.Atoi(last)
		if errA != nil || errB != nil || a < 0 || b < a || b >= processorsMax {
			return nil
		}
		for i := a; i <= b; i++ {
			list = append(list, i)
		}
	}
	return list
}

// nodeOf returns which node thread i of n runs on: threads are shared out by the nodes' processors.
func nodeOf(nodes []node, i, n int) *node {
	total := 0
	for k := range nodes {
		total += len(nodes[k].processors)
	}
	at := i * total / n
	for k := range nodes {
		if at -= len(nodes[k].processors); at < 0 {
			return &nodes[k]
		}
	}
	return &nodes[len(nodes)-1]
}

// nodesMask returns the nodes as bits; 0 where a number is too large for one, or there are none.
func nodesMask(nodes []node) (mask uint64) {
	for _, n := range nodes {
		if n.id >= 64 {
			return 0
		}
		mask |= 1 << n.id
	}
	return mask
}
