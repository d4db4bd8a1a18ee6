// Package bench measures the kernels of kernels/cpu beside what the machine gives: memory bandwidth
// and peak arithmetic are measured just before and after each run of an op, as shared machines change
// speed within a minute, and only their ratio means something.
package bench

// Options of Run; the zero value measures everything on all processors.
type Options struct {
	Threads     int      // 0: all
	ISA         string   // "": the best
	Ops         []string // of Ops(); none: all
	Types       []string // of weights; none: those of published files
	Rows        []int    // of products with several rows; none: 2 to 256
	MemoryBytes int64    // of weights that one repetition reads; 0: 512 MiB
	Repetitions int      // 0: 5
}

// Result is what one case reached: medians over the repetitions, each of which is divided by the mean
// of the limits measured just before and just after it.
type Result struct {
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
