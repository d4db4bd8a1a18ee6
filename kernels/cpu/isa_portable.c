// The kernels for any machine.
#define ROWS_MAX 1
#define UNROLL(N)
#include "internal.h"
#include "vec_portable.h"
#include "ints_body.h"
#include "floats_body.h"
#include "attention_body.h"
#include "ops_body.h"

const isa isa_portable = ISA_TABLE("portable");
