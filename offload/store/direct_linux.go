package store

import "golang.org/x/sys/unix"

// directFlag asks open(2) for reads that bypass the page cache.
const directFlag = unix.O_DIRECT
