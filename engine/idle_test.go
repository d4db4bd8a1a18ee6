package engine

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// An engine with nothing to do uses no processor, whether its experts are in memory or stream. A
// thread that spins would use 1000 ms of the second; what is allowed is for the test's own
// runtime.
func TestIdleEnginesUseNoProcessor(t *testing.T) {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	_, plan, err := Inspect(tiny, Options{Context: 64, HostMemory: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, memory := range []int64{0, plan.Least + 2<<20} { // both at once
		s := session(t, open(t, tiny, Options{Context: 64, HostMemory: memory, Threads: 4}))
		if err := s.Feed(t.Context(), []int32{5, 6, 7}); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(20 * time.Millisecond) // threads spin for a while after the last op
	begin := used()
	time.Sleep(time.Second)
	if n := used() - begin; n > 50*time.Millisecond {
		t.Errorf("%v of processor time in a second of idleness", n)
	}
}

// The environment chooses the instruction set.
func TestInstructionSetOfTheEnvironment(t *testing.T) {
	if !haveCPU {
		t.Skip("without cgo there is no such device")
	}
	with := func(isa string) Options {
		return Options{Device: "cpu", Context: 64, Getenv: func(name string) string {
			if name == "MOERING_CPU_ISA" {
				return isa
			}
			return ""
		}}
	}
	e := open(t, tiny, with("portable"))
	if detail := e.device.Info().Detail; !strings.HasPrefix(detail, "portable C") {
		t.Errorf("%q was chosen", detail)
	}
	if e, err := Open(tiny, with("mmx")); err == nil {
		_ = e.Close()
		t.Error("an instruction set that there is not was taken")
	}
}
