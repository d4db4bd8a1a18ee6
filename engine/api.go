// Package engine opens language models that may be larger than memory and generates text with them.
// Expert weights stream from disk through a bounded ring while kernels run; what memory is left
// over caches the experts that are used most.
//
//	e, err := engine.Open("model.gguf", engine.Options{HostMemory: 4 << 30})
//	s, err := e.NewSession()
//	for token, err := range s.Generate(ctx, "package main", engine.Sampling{MaxTokens: 64}) { … }
//
// # Compatibility
//
// Versions follow Go's semantic import versioning. Before v1.0.0 the API may change with any minor
// version; CHANGELOG.md names each change. From then on a program that builds with this import path
// builds with every later version of it, and what is incompatible gets another path, ending in /v2.
// The promise is for package engine: other packages of the module serve it and may change. Options,
// Sampling and the structs that are returned grow by fields, so write their literals with field
// names. Values, texts of errors and log lines are not part of it; the kinds of error (ErrBudget and
// so on) are. The tokens of a seed may change with a version, as rounding does. The C API has
// versions of its own: docs/capi-changes.md.
package engine

import (
	"time"

	"github.com/moering/moering/sched"
)

// Prediction is the books of reading ahead.
type Prediction = sched.PredictorReport

// MoveRates are what decides between moving an expert to a device and computing it on the processor.
type MoveRates = sched.Rates

// Message is one turn of a chat.
type Message struct {
	Role    string `json:"role"` // "system", "user", "assistant"
	Content string `json:"content"`
}

// Sampling says how tokens are chosen and when generation ends. The zero value is greedy and ends at
// the model's end-of-text token or at the context's end.
type Sampling struct {
	Temperature       float32  // 0: greedy
	TopK              int      // 0: off
	TopP              float32  // 0 or 1: off
	MinP              float32  // 0: off
	RepetitionPenalty float32  // 0 or 1: off; over the last RepetitionWindow tokens
	RepetitionWindow  int      // 0: 64
	Seed              uint64   // same seed, same model, same prompt: same tokens
	Stop              []string // generation ends before the first of these
	MaxTokens         int      // 0: until the context is full
	LogProbs          int      // alternatives reported per token; 0: none, and no log-probability
	IgnoreEOS         bool     // go on after the end-of-text token
}

// Token is one generated token.
type Token struct {
	ID   int32
	Text string // complete UTF-8; may be empty while a character is incomplete
	// LogProb is the natural log of the token's probability under the model (temperature 1), and
	// Alternatives the most likely tokens; only with Sampling.LogProbs.
	LogProb      float32
	Alternatives []TokenProb
	// Finish is set on the last token: "stop" (end of text or a stop string), "length".
	Finish string
}

// TokenProb is a token and its log-probability.
type TokenProb struct {
	ID      int32
	LogProb float32
}

// Info describes an open model.
type Info struct {
	Path         string `json:"path"`
	Format       string `json:"format"`
	Family       string `json:"family"`
	Layers       int    `json:"layers"`
	Dim          int    `json:"dim"`
	Vocabulary   int    `json:"vocabulary"`
	Context      int    `json:"context"`
	Experts      int    `json:"experts"`
	ExpertsUsed  int    `json:"experts_used"`
	WeightBytes  int64  `json:"weight_bytes"`
	ExpertBytes  int64  `json:"expert_bytes"` // of all expert groups together
	ExpertGroups int    `json:"expert_groups"`
	GroupBytes   int64  `json:"group_bytes"` // of the largest expert group
	Types        string `json:"types"`       // "Q4_0 10.6 MB, Q8_0 1.8 MB, F32 0.1 MB"
	ChatTemplate bool   `json:"chat_template"`
	// Checksums: the file carries them, as packed ones do; Options.Verify says when they are compared.
	Checksums bool `json:"checksums"`
}

// Plan is how the budgets are split. All sizes in bytes. Where the device computes in host memory there
// is one budget, and the fields about the host's tier are zero.
type Plan struct {
	Device     string `json:"device"`
	Budget     int64  `json:"memory_budget_bytes"` // of the memory that is computed in
	Least      int64  `json:"least_budget_bytes"`  // the smallest budget that would work
	Stay       int64  `json:"stay_bytes"`          // weights that stay
	Dense      int64  `json:"dense_bytes"`         // sections for the layers' dense weights
	KV         int64  `json:"kv_bytes"`
	KVTokens   int    `json:"kv_tokens"`
	KVType     string `json:"kv_type"`
	Work       int64  `json:"work_bytes"`    // activations and scratch
	Reserve    int64  `json:"reserve_bytes"` // the program, the Go heap, tables
	Ring       int64  `json:"ring_bytes"`
	Sections   int    `json:"sections"`
	Cache      int64  `json:"cache_bytes"`
	CacheSlots int    `json:"cache_slots"`
	Groups     int    `json:"groups"`
	Cycle      int    `json:"cycle_groups"` // that one token uses on its way through the layers
	Chunk      int    `json:"chunk"`
	Resident   bool   `json:"resident"` // every group fits: nothing streams after the first touch
	// DenseSections are the layers whose dense weights are in memory at once, of DenseLayers: if
	// fewer, the others stream through a ring.
	DenseSections int `json:"dense_sections"`
	DenseLayers   int `json:"dense_layers"`
	// The host's tier, of a device with memory of its own.
	HostBudget int64 `json:"host_budget_bytes,omitempty"`
	HostLeast  int64 `json:"host_least_budget_bytes,omitempty"`
	HostCache  int64 `json:"host_cache_bytes,omitempty"` // expert groups in page-locked memory
	HostSlots  int   `json:"host_cache_slots,omitempty"`
	HostDense  int   `json:"host_dense_sections,omitempty"`
	// CPUExperts: experts may be computed on the processor, as MoveRates have it, which Open measures.
	CPUExperts bool      `json:"cpu_experts,omitempty"`
	MoveRates  MoveRates `json:"move_rates,omitzero"`
}

// Floods reports that ring and cache together are smaller than one token's cycle over the layers:
// keeping what was used last would then never find anything. The default policy keeps what is likely
// used soonest instead.
func (p Plan) Floods() bool { return !p.Resident && p.Sections+p.CacheSlots < p.Cycle }

// Stats are counters since Open, or differences of two snapshots (Sub).
type Stats struct {
	Passes         int64 `json:"passes"`
	PrefillTokens  int64 `json:"prefill_tokens"`
	DecodeTokens   int64 `json:"decode_tokens"`
	BytesRead      int64 `json:"bytes_read"` // expert groups, from disk
	Reads          int64 `json:"reads"`
	Hits           int64 `json:"hits"` // groups found in memory when asked for
	Late           int64 `json:"late"` // found on their way: prefetched, not yet there
	Misses         int64 `json:"misses"`
	Prefetched     int64 `json:"prefetched"`      // groups read ahead
	PrefetchUseful int64 `json:"prefetch_useful"` // of these, asked for while still there
	// Guessed counts experts that were thought worth reading ahead, read or not; GuessesCame those of
	// them that were then used; GuessesWanted all that were used where there was a guess.
	Guessed       int64 `json:"guessed"`
	GuessesCame   int64 `json:"guesses_came"`
	GuessesWanted int64 `json:"guesses_wanted"`
	// AllBytesRead are the bytes of all reads from disk, with what surrounds the weights.
	AllBytesRead int64 `json:"all_bytes_read"`
	// ProbeBytesPerS is what the disks gave, together, when they were probed at open or before; 0: they
	// were not. It is no counter.
	ProbeBytesPerS float64 `json:"probe_bytes_per_s"`
	// DenseBytesRead are bytes of dense weights, which stream where they do not fit.
	DenseBytesRead int64 `json:"dense_bytes_read"`
	// Host counts look-ups in host memory for what the device's own memory misses, or the processor takes.
	HostHits   int64         `json:"host_hits,omitempty"`
	HostLate   int64         `json:"host_late,omitempty"`
	HostMisses int64         `json:"host_misses,omitempty"`
	CPUExperts int64         `json:"cpu_experts,omitempty"` // groups computed on the processor, beside a device
	ReadBusy   time.Duration `json:"read_busy_ns"`          // at least one read was under way
	Wait       time.Duration `json:"wait_ns"`               // computing stood still for weights
	Busy       time.Duration `json:"busy_ns"`               // passes took in all
	PeakMemory int64         `json:"memory_peak_bytes"`     // resident set of the process
}

// HitRate is the share of groups found in memory, 0 to 1; 1 if none was asked for.
func (s Stats) HitRate() float64 {
	n := s.Hits + s.Late + s.Misses
	if n == 0 {
		return 1
	}
	return float64(s.Hits) / float64(n)
}

// HostHitRate is the share of groups found in host memory of those that the device's own memory
// missed, 0 to 1; 1 if none was.
func (s Stats) HostHitRate() float64 {
	n := s.HostHits + s.HostLate + s.HostMisses
	if n == 0 {
		return 1
	}
	return float64(s.HostHits) / float64(n)
}

// Precision is the share of guesses that came true, 0 to 1; 0 if there were none.
func (s Stats) Precision() float64 { return ratio(float64(s.GuessesCame), float64(s.Guessed)) }

// Recall is the share of used experts that were guessed, 0 to 1.
func (s Stats) Recall() float64 { return ratio(float64(s.GuessesCame), float64(s.GuessesWanted)) }

// TokensPerS is the tokens of prompts and of generation in a second of passes.
func (s Stats) TokensPerS() float64 {
	return ratio(float64(s.PrefillTokens+s.DecodeTokens), s.Busy.Seconds())
}

// BytesPerToken is what was read of experts for a token.
func (s Stats) BytesPerToken() float64 {
	return ratio(float64(s.BytesRead), float64(s.PrefillTokens+s.DecodeTokens))
}

// ReadBytesPerS is the speed of reading while at least one read was under way: to be compared with
// ProbeBytesPerS.
func (s Stats) ReadBytesPerS() float64 { return ratio(float64(s.AllBytesRead), s.ReadBusy.Seconds()) }

func ratio(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}

// WaitShare is the share of the passes' time that waited for weights, 0 to 1.
func (s Stats) WaitShare() float64 {
	if s.Busy <= 0 {
		return 0
	}
	return float64(s.Wait) / float64(s.Busy)
}

// Sub returns what happened between an earlier snapshot and s.
func (s Stats) Sub(earlier Stats) Stats {
	s.Passes -= earlier.Passes
	s.PrefillTokens -= earlier.PrefillTokens
	s.DecodeTokens -= earlier.DecodeTokens
	s.BytesRead -= earlier.BytesRead
	s.Reads -= earlier.Reads
	s.Hits -= earlier.Hits
	s.Late -= earlier.Late
	s.Misses -= earlier.Misses
	s.DenseBytesRead -= earlier.DenseBytesRead
	s.HostHits -= earlier.HostHits
	s.HostLate -= earlier.HostLate
	s.HostMisses -= earlier.HostMisses
	s.CPUExperts -= earlier.CPUExperts
	s.ReadBusy -= earlier.ReadBusy
	s.Prefetched -= earlier.Prefetched
	s.PrefetchUseful -= earlier.PrefetchUseful
	s.Guessed -= earlier.Guessed
	s.GuessesCame -= earlier.GuessesCame
	s.GuessesWanted -= earlier.GuessesWanted
	s.AllBytesRead -= earlier.AllBytesRead
	s.Wait -= earlier.Wait
	s.Busy -= earlier.Busy
	return s
}
