//go:build cgo

package cpu

import (
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

// files makes a file system of paths and their texts.
func files(texts map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, text := range texts {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func TestThreadsFollowQuotasOfControlGroups(t *testing.T) {
	const v1, v2 = "3:cpuset:/\n2:cpu,cpuacct:/a/b\n", "0::/a/b\n"
	cases := []struct {
		name string
		mask int // processors
		fs   map[string]string
		want int
	}{
		{"nothing to read", 8, nil, 8},
		{"one processor", 1, nil, 1},
		{"version 2, one processor's worth", 8, map[string]string{"proc/self/cgroup": v2,
			"sys/fs/cgroup/a/b/cpu.max": "100000 100000\n"}, 1},
		{"version 2, the group above", 8, map[string]string{"proc/self/cgroup": v2,
			"sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "250000 100000\n"}, 3},
		{"version 2, the least of all", 8, map[string]string{"proc/self/cgroup": v2,
			"sys/fs/cgroup/a/b/cpu.max": "400000 100000\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2},
		{"version 2, no quota", 8, map[string]string{"proc/self/cgroup": v2,
			"sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 8},
		{"version 2 in a container, which has the path of the host", 8, map[string]string{
			"proc/self/cgroup": "0::/docker/0123\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2},
		{"version 2 beside version 1", 8, map[string]string{"proc/self/cgroup": v2,
			"sys/fs/cgroup/unified/a/cpu.max": "300000 100000\n"}, 3},
		{"version 1, one processor's worth", 8, map[string]string{"proc/self/cgroup": v1,
			"sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us":  "50000\n",
			"sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us": "50000\n"}, 1},
		{"version 1 without the short name", 8, map[string]string{"proc/self/cgroup": v1,
			"sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us":  "320000\n",
			"sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}, 4},
		{"version 1, no quota", 8, map[string]string{"proc/self/cgroup": v1,
			"sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us":  "-1\n",
			"sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us": "100000\n"}, 8},
		{"a quota above the mask", 2, map[string]string{"proc/self/cgroup": v2,
			"sys/fs/cgroup/a/b/cpu.max": "9223372036854775807 1000\n"}, 2},
		{"a tenth of a processor", 8, map[string]string{"proc/self/cgroup": v2,
			"sys/fs/cgroup/a/b/cpu.max": "10000 100000\n"}, 1},
		{"the group of another controller", 8, map[string]string{"proc/self/cgroup": "2:cpuset:/a\n",
			"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us":  "100000\n",
			"sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n"}, 8},
		{"no numbers", 8, map[string]string{"proc/self/cgroup": "?\n0::/a/b\n",
			"sys/fs/cgroup/a/b/cpu.max": "0 x\n", "sys/fs/cgroup/a/cpu.max": "-5 0\n"}, 8},
	}
	for _, c := range cases {
		host := system{files: files(c.fs)}
		for i := range c.mask {
			host.mask = append(host.mask, i)
		}
		if got := host.processors(); got != c.want {
			t.Errorf("%s: %d threads, want %d", c.name, got, c.want)
		}
		d, err := openOn(Options{ISA: "portable"}, host)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.Info().Threads; got != c.want {
			t.Errorf("%s: a device with %d threads, want %d", c.name, got, c.want)
		}
		_ = d.Close()
	}
}

// A process that may run on one processor computes with one thread: this test runs itself so.
func TestThreadsFollowTheAffinityMask(t *testing.T) {
	const inside = "MOERING_TEST_AFFINITY"
	if os.Getenv(inside) != "" {
		fmt.Printf("threads: %d\n", open(t, "portable", 0).Info().Threads)
		return
	}
	runtime.LockOSThread() // whose mask the child takes over
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Skipf("the affinity mask cannot be read: %v", err)
	}
	one.Set(thisSystem().mask[0])
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Skipf("the affinity mask cannot be set: %v", err)
	}
	defer func() {
		if err := unix.SchedSetaffinity(0, &before); err != nil {
			t.Error(err)
		}
	}()
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestThreadsFollowTheAffinityMask$")
	c.Env = append(os.Environ(), inside+"=1")
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "threads: 1\n") {
		t.Errorf("on one processor: %v\n%s", err, out)
	}
}

func TestLists(t *testing.T) {
	for text, want := range map[string][]int{"": nil, "3": {3}, "0-2,5,7-8": {0, 1, 2, 5, 7, 8}, "2-1": nil,
		"a": nil, "0-99999999999": nil, "0-9999999": nil, "-1": nil, "1,": nil} {
		if got := parseList(text); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestNodesAreThoseWithProcessorsOfTheProcess(t *testing.T) {
	host := system{mask: []int{0, 1, 2, 5}, files: files(map[string]string{
		"sys/devices/system/node/node0/cpulist":  "0-3\n",
		"sys/devices/system/node/node10/cpulist": "4-7\n",
		"sys/devices/system/node/node2/cpulist":  "8-9\n", // none of ours
		"sys/devices/system/node/node3/cpulist":  "\n",    // memory alone
		"sys/devices/system/node/online":         "0-10\n",
	})}
	nodes := host.nodes()
	want := []node{{0, []int32{0, 1, 2}}, {10, []int32{5}}}
	if !reflect.DeepEqual(nodes, want) {
		t.Fatalf("%v, want %v", nodes, want)
	}
	if mask := nodesMask(nodes); mask != 1<<10|1 {
		t.Errorf("mask %#x", mask)
	}
	if mask := nodesMask([]node{{64, nil}, {1, nil}}); mask != 0 {
		t.Errorf("a node that no mask holds: %#x", mask)
	}
	for _, c := range []struct{ threads, onFirst int }{{4, 3}, {8, 6}, {1, 1}, {3, 3}} {
		first := 0
		for i := range c.threads {
			if nodeOf(nodes, i, c.threads) == &nodes[0] {
				first++
			}
		}
		if first != c.onFirst {
			t.Errorf("%d of %d threads on the node with three of four processors, want %d", first, c.threads,
				c.onFirst)
		}
	}
	host.mask = []int{1, 2}
	if nodes := host.nodes(); nodes != nil {
		t.Errorf("one node: %v", nodes)
	}
	if nodes := (system{mask: []int{0}, files: files(nil)}).nodes(); nodes != nil {
		t.Errorf("a machine that tells nothing: %v", nodes)
	}
}

// On two nodes, which the machine need not have, threads stay on the processors of theirs, and
// compute.
func TestThreadsStayOnTheirNodes(t *testing.T) {
	mask := thisSystem().mask
	a, b := mask[0], mask[len(mask)-1]
	if a == b {
		t.Skip("one processor")
	}
	host := system{mask: []int{a, b}, files: files(map[string]string{
		"sys/devices/system/node/node0/cpulist": fmt.Sprint(a),
		"sys/devices/system/node/node1/cpulist": fmt.Sprint(b),
	})}
	before := allowed(t)
	d, err := openOn(Options{Threads: 4, ISA: "portable"}, host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	got := allowed(t) // threads 1 to 3: one on the first node, two on the second
	for list, n := range before {
		got[list] -= n
	}
	if got[fmt.Sprint(a)] != 1 || got[fmt.Sprint(b)] != 2 {
		t.Errorf("processors allowed to threads: %v; nodes are %d and %d", got, a, b)
	}
	if !strings.HasSuffix(d.Info().Detail, ", 2 NUMA nodes") {
		t.Error(d.Info().Detail)
	}
	span := alloc(t, d, 3*hugeBytes) // whatever the kernel says to a node that is not there
	span.Host()[2*hugeBytes] = 1
}

// allowed counts the pool's threads by the processors that they may run on.
func allowed(t *testing.T) map[string]int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Skipf("threads cannot be listed: %v", err)
	}
	count := map[string]int{}
	for _, task := range tasks {
		name, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/comm")
		status, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
		if strings.TrimSpace(string(name)) != "moering-cpu" {
			continue
		}
		_, rest, _ := strings.Cut(string(status), "\nCpus_allowed_list:")
		list, _, _ := strings.Cut(rest, "\n")
		count[strings.TrimSpace(list)]++
	}
	return count
}
