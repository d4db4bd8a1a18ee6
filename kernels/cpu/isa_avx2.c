// The kernels for avx2; the target is of this file alone, the machine is asked at run time.
#if defined(__x86_64__) && !defined(MOERING_PORTABLE)
#include <immintrin.h>
#include <math.h>
#include <string.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
// Tracking variables for the debugger takes most of the compiler's time in unrolled code.
#pragma GCC optimize("no-var-tracking")
#pragma GCC target("avx2,fma,f16c")
#endif
#define ROWS_MAX 4
#define UNROLL(N) _Pragma(UNROLL_TEXT(GCC unroll N))
#define UNROLL_TEXT(X) #X
#include "internal.h"
#include "vec_avx2.h"
#include "ints_body.h"
#include "floats_body.h"
#include "attention_body.h"
#include "ops_body.h"

const isa isa_avx2 = ISA_TABLE("avx2");

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
