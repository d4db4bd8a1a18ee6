package engine

import (
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// memoryUnknown is taken where the system does not say what is available.
const memoryUnknown = 4 << 30

// availableMemory is what the process may still take: the system's estimate, or the limit of its
// control group, or of one around that, if it is less.
func availableMemory() int64 {
	available := int64(memoryUnknown)
	if kib, ok := field("/proc/meminfo", "MemAvailable:"); ok {
		available = kib << 10
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		text = nil
	}
	for _, file := range limitFiles(string(text)) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 {
			available = min(available, n)
		}
	}
	return available
}

// limitFiles lists where limits of memory may be, given /proc/self/cgroup: of the group that a line
// names and of those around it, of version 2 (line "0::/path") and of version 1 ("9:memory:/path").
func limitFiles(groups string) []string {
	list := []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}
	for line := range strings.Lines(groups) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		root, file := "/sys/fs/cgroup", "memory.max"
		if slices.Contains(strings.Split(parts[1], ","), "memory") {
			root, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		} else if parts[1] != "" {
			continue
		}
		for dir := path.Clean("/" + parts[2]); dir != "/"; dir = path.Dir(dir) {
			list = append(list, path.Join(root, dir, file))
		}
	}
	return list
}

// peakMemory is the largest resident set of the process so far; 0 where the system does not say.
func peakMemory() int64 {
	kib, _ := field("/proc/self/status", "VmHWM:")
	return kib << 10
}

// field reads a line "name value kB" of a file of the proc file system.
func field(file, name string) (int64, bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
