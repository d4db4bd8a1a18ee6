// The kernels for NEON with dot product; the target is of this file alone, the machine is asked at run
// time.
#if defined(__aarch64__) && !defined(MOERING_PORTABLE)
#if defined(__clang__)
#include <arm_neon.h>
#include <math.h>
#include <string.h>
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC optimize("no-var-tracking")
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#define ROWS_MAX 4
#define UNROLL(N) _Pragma(UNROLL_TEXT(GCC unroll N))
#define UNROLL_TEXT(X) #X
#include "internal.h"
#include "vec_neon.h"
#include "ints_body.h"
#include "floats_body.h"
#include "attention_body.h"
#include "ops_body.h"

const isa isa_neon = ISA_TABLE("neon");

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
