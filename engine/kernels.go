package engine

// KernelOptions says what BenchKernels measures; the zero value is everything, on all processors.
type KernelOptions struct {
	Threads     int      // 0: all
	ISA         string   // "": the best
	Ops         []string // decode, experts, attention decode, attention prefill; none: all
	Types       []string // of weights; none: those of published files
	Rows        []int    // of products with several rows; none: 2 to 256
	MemoryBytes int64    // of weights that one repetition reads; 0: 512 MiB
	Repetitions int      // 0: 5
}

// KernelResult is what one kernel reached: medians over the repetitions, each of which is divided by
// the mean of the machine's limits just before and just after it.
type KernelResult struct {
	Op          string  `json:"op"`
	Type        string  `json:"type"` // of weights, or of the key-value cache
	Rows        int     `json:"rows"` // of activations; for experts of each expert
	Shape       string  `json:"shape"`
	Device      string  `json:"device"`
	Bytes       int64   `json:"bytes"`      // of weights or of keys and values, each counted once
	Operations  float64 `json:"operations"` // a multiply-add counts as two
	Repetitions int     `json:"repetitions"`
	Seconds     float64 `json:"seconds"`
	SecondsBest float64 `json:"seconds_best"`
	BytesPerS   float64 `json:"bytes_per_s"`
	OpsPerS     float64 `json:"operations_per_s"`
	ReadLimit   float64 `json:"read_limit_bytes_per_s"`
	MathLimit   float64 `json:"arithmetic_limit_per_s"` // int8 for quantised weights, else float32
	ReadShare   float64 `json:"read_share"`             // of the memory's bandwidth
	MathShare   float64 `json:"arithmetic_share"`       // of the peak
	// The best repetition's shares.
	ReadShareBest float64 `json:"read_share_best"`
	MathShareBest float64 `json:"arithmetic_share_best"`
}
