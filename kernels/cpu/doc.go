// Package cpu is the device of the host's processor: C with SIMD, chosen at run time, and a pool of
// worker threads. It needs cgo; without it the package is empty.
//
// # Numerics
//
// Products with float weights (F32, F16, BF16), and all products of an Exact op, multiply in
// float32. Lane l of 16 takes the columns l, l+16, l+32, ... with one fused multiply-add each;
// the 16 sums are added as l + (l+8), l + (l+4), l + (l+2), l + (l+1). Block-quantised weights
// are decoded first, as kernels/quant does. With n columns the error is at most about (n/16 + 5)
// * 2^-24 of sum |w*x|.
//
// Other products quantise the activations: for each 32 of a row d = max|x|/127 and q = x/d to the
// nearest even integer. Sums of products with the integers of the weights are exact. A block of 32
// columns adds to its output, in this order and with one rounding each,
//
//	f = fma(float(sum q*w), fl(dw*d), f)
//	f = fma(-dmin*m, fl(float(sum q)*d), f)     in formats with a minimum
//
// block by block from the first column on. In Q2_K, Q3_K and Q6_K, whose scales are for 16, the
// integer scales are inside the exact sum (and in Q2_K the integer minimums, times dmin*d). So the
// bits of a row depend on nothing but the row and the weights: not on the rows beside it, the
// threads, the layout, or the instruction set. The error against unquantised activations is that of
// the quantisation: each activation moves by at most d/2, which for normally distributed
// activations is about 0.5 % of the norm of the output, and twice that where one in 64 is ten times
// larger. A block that holds an infinity or a NaN makes the row's outputs NaN. Subnormal numbers
// count; where d would be below the least of them, the block is zero. What all this costs in
// perplexity, format by format, is in docs/decisions/0010-cpu-kernels.md.
//
// Attention cuts a row's positions into segments of 512, and those into runs of up to 32 positions
// that begin at multiples of 32 in their page. A segment keeps a running maximum and sum; segments
// are merged in order. Keys and values of F16 and Q8_0 caches are widened to float32, exactly, and
// all arithmetic is in float32. Exponentials are within 2 ulp. RMSNorm sums squares in the order of
// the float products.
//
// # Layout
//
// Land interleaves the rows of block-quantised matrices by sixteen, in place: matrices of a
// multiple of 16 rows and 64 columns. Other ones are rearranged tile by tile as they are used,
// which costs speed alone.
package cpu
