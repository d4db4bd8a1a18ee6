package ref

import (
	"fmt"
	"sort"
	"sync"

	"github.com/moering/moering/kernels"
)

// deviceBase is where the addresses of a discrete device begin: far from the host's, so that one
// taken for the other fails.
const deviceBase = 0x7D00_0000_0000_0000

// memory is what only a discrete device reaches: the backing of its buffers, found by address.
type memory struct {
	mu     sync.RWMutex
	free   int64
	next   uintptr
	blocks []block // by address
}

type block struct {
	addr uintptr
	data []byte
}

func (m *memory) alloc(bytes int64) (*kernels.Buffer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if bytes < 0 || bytes > m.free {
		return nil, fmt.Errorf("%w: %d bytes of device memory, %d are free", kernels.ErrDevice,
			bytes, m.free)
	}
	host, err := kernels.HostBuffer(bytes)
	if err != nil {
		return nil, err
	}
	m.free -= bytes
	addr := deviceBase + m.next
	m.next += uintptr(bytes+127) &^ 63 // a gap, so that one buffer's end is not another's start
	m.blocks = append(m.blocks, block{addr, host.Host})
	free := func() error { return m.release(addr) }
	return &kernels.Buffer{Addr: addr, Bytes: bytes, Free: free}, nil
}

func (m *memory) release(addr uintptr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := sort.Search(len(m.blocks), func(i int) bool { return m.blocks[i].addr >= addr })
	if i < len(m.blocks) && m.blocks[i].addr == addr {
		m.free += int64(len(m.blocks[i].data))
		poison(m.blocks[i].data)
		m.blocks = append(m.blocks[:i], m.blocks[i+1:]...)
	}
	return nil
}

// find returns the device's bytes of a span, or an error for memory that is the host's, another
// device's, or freed.
func (m *memory) find(s kernels.Span) ([]byte, error) {
	if s.Buffer.Host != nil {
		return nil, fmt.Errorf("%w: an op on host memory of %d bytes", kernels.ErrDevice, s.Bytes)
	}
	addr := s.Addr()
	m.mu.RLock()
	defer m.mu.RUnlock()
	i := sort.Search(len(m.blocks), func(i int) bool { return m.blocks[i].addr > addr }) - 1
	if i >= 0 {
		b := m.blocks[i]
		from := int64(addr - b.addr)
		if from <= int64(len(b.data)) && s.Bytes <= int64(len(b.data))-from {
			return b.data[from : from+s.Bytes : from+s.Bytes], nil
		}
	}
	return nil, fmt.Errorf("%w: %d bytes at %#x are not memory of this device", kernels.ErrDevice,
		s.Bytes, addr)
}

func poison(b []byte) {
	for n := 0; n < len(b); {
		if n == 0 {
			b[0], n = 0xCC, 1
			continue
		}
		n += copy(b[n:], b[:n])
	}
}
