//go:build !linux

package store

// directFlag is 0: this system has no O_DIRECT.
const directFlag = 0
