//go:build cgo

package cuda

/*
#include "cublas.h"
*/
import "C"

import (
	"fmt"
	"strings"

	"github.com/moering/moering/kernels"
)

// loadFailure is the error of a library that dlopen refuses, or that is no driver.
func loadFailure(library, why string) error {
	if strings.HasPrefix(why, "missing entry point") {
		return fmt.Errorf("%w: cuda: %s is too old: %s; install an NVIDIA driver for CUDA 11.2 or "+
			"later", kernels.ErrDevice, library, why)
	}
	return fmt.Errorf("%w: cuda: no NVIDIA driver (%s); install one, make libcuda.so.1 visible in "+
		"the container, or compute on the CPU", kernels.ErrDevice, why)
}

// failure turns a result other than 0 into an error that says what was tried, what the driver
// answered, and what to do.
func (d *driver) failure(what string, r C.int) error {
	if r >= C.R_CUBLAS {
		return fmt.Errorf("%w: cuda: %s: cuBLASLt fails: %s; compute without it, or with another version",
			kernels.ErrDevice, what, statusText(r))
	}
	var name *C.char
	text := C.GoString(C.driver_error(d.c, r, &name))
	return fmt.Errorf("%w: cuda: %s: %s; %s (%s %d: %s)", kernels.ErrDevice, what, meaning(r),
		advice(r), C.GoString(name), int(r), text)
}

// breaks reports the results after which the context gives no other: a kernel failed, or the
// device is lost.
func breaks(r C.int) bool { return failedKernel(r) || lostDevice(r) }

func failedKernel(r C.int) bool {
	switch r {
	case C.R_ILLEGAL_ADDRESS, C.R_LAUNCH_TIMEOUT, C.R_ASSERT, C.R_HARDWARE_STACK_ERROR,
		C.R_ILLEGAL_INSTRUCTION, C.R_MISALIGNED_ADDRESS, C.R_INVALID_ADDRESS_SPACE, C.R_INVALID_PC,
		C.R_LAUNCH_FAILED:
		return true
	}
	return false
}

func lostDevice(r C.int) bool {
	switch r {
	case C.R_DEINITIALIZED, C.R_DEVICE_UNAVAILABLE, C.R_ECC_UNCORRECTABLE,
		C.R_NVLINK_UNCORRECTABLE, C.R_CONTEXT_IS_DESTROYED, C.R_UNKNOWN:
		return true
	}
	return false
}

// statusText names a status of cuBLASLt.
func statusText(r C.int) string {
	names := map[C.int]string{C.S_NOT_INITIALIZED: "NOT_INITIALIZED", C.S_ALLOC_FAILED: "ALLOC_FAILED",
		C.S_INVALID_VALUE: "INVALID_VALUE", C.S_ARCH_MISMATCH: "ARCH_MISMATCH",
		C.S_MAPPING_ERROR: "MAPPING_ERROR", C.S_EXECUTION_FAILED: "EXECUTION_FAILED",
		C.S_INTERNAL_ERROR: "INTERNAL_ERROR", C.S_NOT_SUPPORTED: "NOT_SUPPORTED",
		C.S_LICENSE_ERROR: "LICENSE_ERROR"}
	s := r - C.R_CUBLAS
	if name, ok := names[s]; ok {
		return "CUBLAS_STATUS_" + name
	}
	return fmt.Sprintf("status %d", int(s))
}

func meaning(r C.int) string {
	switch {
	case r == C.R_OUT_OF_MEMORY:
		return "out of device memory"
	case r == C.R_ILLEGAL_ADDRESS:
		return "a kernel used an illegal address"
	case r == C.R_LAUNCH_TIMEOUT:
		return "a kernel ran into the display's time limit"
	case failedKernel(r):
		return "a kernel failed"
	case lostDevice(r):
		return "the device is lost"
	case r == C.R_NO_DEVICE:
		return "no CUDA device"
	case r == C.R_UNSUPPORTED_PTX_VERSION:
		return "the driver is too old for the kernels"
	case r == C.R_INVALID_PTX:
		return "the driver rejects the kernels"
	case r == C.R_NO_BINARY_FOR_GPU:
		return "the GPU is too old for the kernels"
	case r == C.R_JIT_COMPILER_NOT_FOUND, r == C.R_JIT_COMPILATION_DISABLED:
		return "the driver cannot compile the kernels"
	case r == C.R_SYSTEM_DRIVER_MISMATCH:
		return "the driver's library and its kernel module are of different versions"
	case r == C.R_SYSTEM_NOT_READY:
		return "the GPU system is not ready"
	case r == C.R_COMPAT_NOT_SUPPORTED:
		return "the compatibility library does not serve this GPU"
	case r == C.R_STUB_LIBRARY:
		return "the library is the toolkit's stub, not a driver"
	case r == C.R_LAUNCH_OUT_OF_RESOURCES:
		return "a kernel needs more registers or shared memory than the GPU has"
	}
	return "the driver refuses"
}

func advice(r C.int) string {
	switch {
	case r == C.R_OUT_OF_MEMORY:
		return "give the engine less of it, or end other programs on the GPU (nvidia-smi)"
	case failedKernel(r):
		return "the context is gone: close the engine and open it again, in a new process where " +
			"others use CUDA too; compute-sanitizer finds the kernel, please report it"
	case lostDevice(r):
		return "close the engine and open it again, in a new process where others use CUDA too; " +
			"dmesg names the cause (Xid)"
	case r == C.R_NO_DEVICE:
		return "look at nvidia-smi, and whether CUDA_VISIBLE_DEVICES hides it"
	case r == C.R_UNSUPPORTED_PTX_VERSION:
		return "update the NVIDIA driver"
	case r == C.R_INVALID_PTX:
		return "please report it with the log"
	case r == C.R_NO_BINARY_FOR_GPU:
		return "compute capability 8.0 (Ampere) or later is needed"
	case r == C.R_JIT_COMPILER_NOT_FOUND, r == C.R_JIT_COMPILATION_DISABLED:
		return "install libnvidia-ptxjitcompiler of the driver's version, and unset CUDA_DISABLE_PTX_JIT"
	case r == C.R_SYSTEM_DRIVER_MISMATCH:
		return "reboot, or reload the kernel module"
	case r == C.R_SYSTEM_NOT_READY:
		return "start nvidia-fabricmanager"
	case r == C.R_COMPAT_NOT_SUPPORTED, r == C.R_STUB_LIBRARY:
		return "take the stubs and cuda-compat out of the library path"
	}
	return "the driver's code says why"
}
