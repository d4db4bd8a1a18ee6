//go:build !unix

package batch

import "os"

// lock does nothing where there is no flock: two jobs on one journal are then the user's care.
func lock(*os.File) error { return nil }

// syncDir does nothing where directories cannot be synced.
func syncDir(string) error { return nil }
