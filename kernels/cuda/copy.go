//go:build cgo

package cuda

/*
#include "driver.h"
*/
import "C"

import (
	"fmt"

	"github.com/moering/moering/kernels"
)

// bounceBytes is the piece in which pageable memory passes through the upload area.
const bounceBytes = 128 << 10

// Copy enqueues a copy between device memory and host memory, or within the device. Host memory that
// the driver has not locked is copied through memory that is, while the caller waits.
func (s *stream) Copy(dst, src kernels.Span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ready() {
		return
	}
	if err := kernels.ValidateCopy(dst, src); err != nil {
		s.fail(err)
		return
	}
	if dst.Bytes == 0 {
		return
	}
	if err := s.copy(dst, src); err != nil {
		s.fail(fmt.Errorf("Copy: %w", err))
	}
}

func (s *stream) copy(dst, src kernels.Span) error {
	to, err := s.dev.side(dst)
	if err != nil {
		return err
	}
	from, err := s.dev.side(src)
	if err != nil {
		return err
	}
	switch {
	case to != deviceMemory && from != deviceMemory:
		return fmt.Errorf("%w: cuda: both sides are host memory", kernels.ErrDevice)
	case to == deviceMemory && from == deviceMemory:
		if dst.Addr() < src.Addr()+uintptr(src.Bytes) && src.Addr() < dst.Addr()+uintptr(dst.Bytes) {
			return fmt.Errorf("%w: cuda: both sides overlap", kernels.ErrDevice)
		}
		s.move(C.C_COPY_WITHIN, dst.Addr(), src.Addr(), dst.Bytes)
	case from == registered:
		s.move(C.C_COPY_IN, dst.Addr(), src.Addr(), dst.Bytes)
	case to == registered:
		s.move(C.C_COPY_OUT, dst.Addr(), src.Addr(), dst.Bytes)
	case to == deviceMemory:
		return s.bounceIn(dst, src.Host())
	default:
		return s.bounceOut(dst.Host(), src)
	}
	return nil
}

func (s *stream) move(kind C.uint32_t, dst, src uintptr, bytes int64) {
	c := s.command(kind)
	c.dst, c.src, c.bytes = C.uint64_t(dst), C.uint64_t(src), C.uint64_t(bytes)
}

// side returns on which side of a copy a span lies.
func (d *Device) side(s kernels.Span) (kind, error) {
	switch k := d.kindOf(s.Buffer); {
	case k != 0:
		return k, nil
	case s.Buffer.Host != nil:
		return pageable, nil // of another device
	}
	return 0, fmt.Errorf("%w: cuda: %d bytes at %#x are not memory of this device",
		kernels.ErrDevice, s.Bytes, s.Addr())
}

// bounceIn copies from pageable memory, which may change once it returns.
func (s *stream) bounceIn(dst kernels.Span, src []byte) error {
	for at := int64(0); at < dst.Bytes; at += bounceBytes {
		n := min(bounceBytes, dst.Bytes-at)
		host, _, err := s.reserve(n)
		if err != nil {
			return err
		}
		copy(host, src[at:at+n])
		s.move(C.C_COPY_IN, dst.Addr()+uintptr(at), uintptr(hostAddress(host)), n)
	}
	return nil
}

// bounceOut copies to pageable memory; it has arrived when bounceOut returns.
func (s *stream) bounceOut(dst []byte, src kernels.Span) error {
	for at := int64(0); at < src.Bytes; at += bounceBytes {
		n := min(bounceBytes, src.Bytes-at)
		host, _, err := s.reserve(n)
		if err != nil {
			return err
		}
		s.move(C.C_COPY_OUT, uintptr(hostAddress(host)), src.Addr()+uintptr(at), n)
		if err := s.settle(); err != nil {
			return err
		}
		copy(dst[at:], host[:n])
	}
	return nil
}

func (d *Device) errUnlocked(bytes int64) error {
	return fmt.Errorf("%w: cuda: the driver refuses to lock %d bytes of host memory: raise the limit "+
		"of locked memory (ulimit -l), or free memory", kernels.ErrDevice, bytes)
}
