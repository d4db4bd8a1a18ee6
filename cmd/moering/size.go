package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// size is a number of bytes on the command line: "4GiB", "500MB", "1.5G", "1073741824".
type size int64

// UnmarshalText reads a size. B, KB, MB, … count in 1000; K, KiB, M, MiB, … in 1024.
func (s *size) UnmarshalText(text []byte) error {
	t := strings.ToUpper(strings.TrimSpace(string(text)))
	digits := strings.TrimRight(t, "BIKMGT ")
	value, err := strconv.ParseFloat(digits, 64)
	unit, known := unitBytes(strings.TrimSpace(t[len(digits):]))
	if err != nil || !known {
		return fmt.Errorf("%q is no size; use one like 4GiB, 500MB or 1.5G", text)
	}
	if value *= unit; !(value >= 0 && value < math.MaxInt64) {
		return fmt.Errorf("size %q is negative or too large", text)
	}
	*s = size(value)
	return nil
}

func unitBytes(unit string) (float64, bool) {
	if unit == "" || unit == "B" {
		return 1, true
	}
	power := strings.IndexByte("KMGT", unit[0]) + 1
	switch {
	case power == 0:
		return 0, false
	case unit[1:] == "" || unit[1:] == "IB":
		return math.Pow(1024, float64(power)), true
	case unit[1:] == "B":
		return math.Pow(1000, float64(power)), true
	}
	return 0, false
}

// formatBytes renders a number of bytes with three digits: "10.6 MB".
func formatBytes(n float64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	i := 0
	for math.Abs(n) >= 999.5 && i < len(units)-1 {
		n /= 1000
		i++
	}
	switch {
	case i == 0 || n >= 99.95:
		return fmt.Sprintf("%.0f %s", n, units[i])
	case n >= 9.995:
		return fmt.Sprintf("%.1f %s", n, units[i])
	}
	return fmt.Sprintf("%.2f %s", n, units[i])
}
