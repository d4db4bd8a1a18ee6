//go:build !linux

package synth

// freeBytes is not known here; a full disk shows when writing.
func freeBytes(string) (n int64, known bool) { return 0, false }
