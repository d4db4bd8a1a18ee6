//go:build cgo

package cuda

import (
	"errors"
	"strings"
	"testing"

	"github.com/moering/moering/kernels"
)

func TestWithoutADriverTheErrorSaysSo(t *testing.T) {
	for name, want := range map[string]string{
		"libcuda-is-not-here.so.1": "no NVIDIA driver",
		"libc.so.6":                "missing entry point", // a library, and no driver
	} {
		d, err := Open(Options{Library: name})
		if d != nil || !errors.Is(err, kernels.ErrDevice) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: device %v, error %v", name, d, err)
		}
		if _, err := Devices(name); !errors.Is(err, kernels.ErrDevice) {
			t.Errorf("%s: Devices: %v", name, err)
		}
	}
}

func TestDevicesAreListedAndFoundByOrdinalAndUUID(t *testing.T) {
	p := play(t)
	p.ask("set devices 3")
	list, err := Devices(library(t))
	if err != nil || len(list) != 3 {
		t.Fatalf("%v, %v", list, err)
	}
	for i, info := range list {
		if info.Ordinal != i || info.Name == "" || info.MemoryBytes <= 0 || info.Major != 8 ||
			info.Processors < 1 || info.DriverVersion != 12040 || len(info.UUID) != 40 {
			t.Errorf("device %d: %+v", i, info)
		}
	}
	for option, want := range map[string]string{"": list[0].UUID, "2": list[2].UUID,
		list[1].UUID: list[1].UUID, strings.ToUpper(list[1].UUID): list[1].UUID} {
		d := p.open(Options{Device: option})
		if d.About().UUID != want {
			t.Errorf("device %q is %s, not %s", option, d.About().UUID, want)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, wrong := range []string{"3", "-1", "GPU-0", "first"} {
		_, err := Open(Options{Device: wrong, Library: library(t)})
		if !errors.Is(err, kernels.ErrDevice) || !strings.Contains(err.Error(), list[2].UUID) {
			t.Errorf("device %q: %v; the error should list the devices", wrong, err)
		}
	}
}

// Every way in which a machine is not ready has its own message, which says what to do.
func TestOpenFailuresAreDistinctAndSayWhatToDo(t *testing.T) {
	seen := make(map[string]string)
	for _, c := range []struct{ set, want, do string }{
		{"fail cuInit 1 100", "no CUDA device", "CUDA_VISIBLE_DEVICES"},
		{"fail cuInit 1 803", "of different versions", "reboot"},
		{"fail cuInit 1 804", "compatibility library", "cuda-compat"},
		{"fail cuInit 1 802", "not ready", "fabricmanager"},
		{"fail cuInit 1 34", "stub", "library path"},
		{"fail cuInit 1 999", "the device is lost", "dmesg"},
		{"fail cuDevicePrimaryCtxRetain 1 2", "out of device memory", "nvidia-smi"},
		{"fail cuDevicePrimaryCtxRetain 1 46", "the device is lost", "dmesg"},
		{"fail cuDevicePrimaryCtxRetain 1 1", "the driver refuses", "CUDA_ERROR_INVALID_VALUE 1"},
		{"set version 11000", "the driver is too old for the kernels", "update the NVIDIA driver"},
		{"set capability 75", "compute capability 7.5", "Ampere"},
		{"set memory 100000000", "are free", "nvidia-smi"},
		{"fail cuModuleLoadDataEx 1 218", "rejects the kernels", "a failure that was asked for"},
		{"fail cuModuleLoadDataEx 1 209", "the GPU is too old", "8.0"},
		{"fail cuModuleLoadDataEx 1 221", "cannot compile", "ptxjitcompiler"},
		{"fail cuModuleGetFunction 1 500", "looking up kernel", "CUDA_ERROR_NOT_FOUND 500"},
	} {
		t.Run(c.set, func(t *testing.T) {
			p := play(t)
			p.ask("%s", c.set)
			d, err := Open(Options{Library: library(t)})
			if err == nil {
				_ = d.Close()
			}
			if !errors.Is(err, kernels.ErrDevice) || !strings.Contains(err.Error(), c.want) ||
				!strings.Contains(err.Error(), c.do) {
				t.Fatalf("error %v; it should say %q and %q", err, c.want, c.do)
			}
			if other := seen[err.Error()]; other != "" {
				t.Errorf("the same message as for %q", other)
			}
			seen[err.Error()] = c.set
		})
	}
}

func TestTheLimitOfDeviceMemoryHolds(t *testing.T) {
	p := play(t)
	const limit = 64 << 20
	d := p.open(Options{MemoryBytes: limit})
	if info := d.Info(); info.Name != "cuda" || info.Unified || info.MemoryBytes != limit {
		t.Errorf("%+v", info)
	}
	first := alloc(t, d, limit-1000)
	_, err := d.Alloc(1001)
	if !errors.Is(err, kernels.ErrDevice) || !strings.Contains(err.Error(), "out of device memory") {
		t.Errorf("more than the limit: %v", err)
	}
	alloc(t, d, 1000)
	if err := errors.Join(first.Free(), first.Free()); err != nil {
		t.Error(err)
	}
	alloc(t, d, limit-1000)
	for _, wrong := range []int64{-1, 1 << 62} {
		if _, err := Open(Options{Library: library(t), MemoryBytes: wrong}); !errors.Is(err,
			kernels.ErrDevice) {
			t.Errorf("a limit of %d: %v", wrong, err)
		}
	}
}

func TestTheDriverRunsOutOfMemoryBeforeTheLimit(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	p.ask("fail cuMemAlloc 1 2")
	if _, err := d.Alloc(1 << 20); !errors.Is(err, kernels.ErrDevice) ||
		!strings.Contains(err.Error(), "out of device memory") {
		t.Error(err)
	}
	holds(t, download(t, d, alloc(t, d, 100)), 0) // the device goes on
}

// download copies a buffer to the host by a stream of its own.
func download(t testing.TB, d *Device, b *kernels.Buffer) []byte {
	t.Helper()
	s, h := newStream(t, d, "download"), pin(t, d, b.Bytes)
	s.Copy(h.All(), b.All())
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	return h.Host
}

func TestBuffersOutliveTheDevice(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	b, h := alloc(t, d, 100), pin(t, d, 100)
	s := newStream(t, d, "s")
	s.Copy(b.All(), h.All())
	e := s.Record()
	if err := errors.Join(d.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	if !e.Done() || e.Wait() != nil {
		t.Errorf("the event of a closed stream: done %v, %v", e.Done(), e.Wait())
	}
	h.Host[99] = 1
	s.Copy(b.All(), h.All())
	if err := s.Sync(); !errors.Is(err, kernels.ErrDevice) {
		t.Errorf("a copy on a closed device: %v", err)
	}
	for _, f := range []func() error{
		func() error { _, err := d.Alloc(1); return err },
		func() error { _, err := d.Pin(1); return err },
		func() error { _, err := d.NewStream("late"); return err },
	} {
		if err := f(); !errors.Is(err, kernels.ErrDevice) {
			t.Errorf("on a closed device: %v", err)
		}
	}
	if live := p.ask("live"); live == nothing {
		t.Error("the context went before the buffers")
	}
	if err := errors.Join(b.Free(), b.Free(), h.Free(), h.Free()); err != nil {
		t.Error(err)
	}
	p.check()
}
