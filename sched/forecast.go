package sched

// ForecastResult is what a batch job will take.
type ForecastResult struct {
	Passes        int     `json:"passes"`
	Seconds       float64 `json:"seconds"`
	LoadSeconds   float64 `json:"load_seconds"`    // disk busy
	ComputeSecs   float64 `json:"compute_seconds"` // arithmetic busy
	LoadBytes     int64   `json:"load_bytes"`
	PrefillTokens int64   `json:"prefill_tokens"`
	DecodeTokens  int64   `json:"decode_tokens"` // generated
	TokensPerS    float64 `json:"tokens_per_s"`  // prefill and decode together
	RowsMean      float64 `json:"rows_mean"`     // of a pass
	Balanced      int     `json:"rows_balanced"` // rows at which computing takes as long as loading
	SequencesPeak int     `json:"sequences_peak"`
	KVTokensPeak  int64   `json:"kv_tokens_peak"`
	Preemptions   int     `json:"preemptions"`
	Refused       int     `json:"refused"` // jobs too long for the KV cache
	// DiskBound is the seconds of passes that loaded longer than they computed; KVLimited those of
	// them in which a waiting job was held back for want of KV memory.
	DiskBound float64 `json:"disk_bound_seconds"`
	KVLimited float64 `json:"kv_limited_seconds"`
	// Bottleneck is "cores" if at least half of the time is not DiskBound; else "memory" if more of
	// it would help more than a faster disk, or "disk".
	Bottleneck string `json:"bottleneck"`
	// Helps says what the job would take with twice the memory for cache and KV, twice the disk's
	// bandwidth, or twice the speed of the arithmetic; the most helpful first.
	Helps []Help `json:"helps"`
}

// Help is what a change of the machine would do.
type Help struct {
	What    string  `json:"what"` // "RAM", "disk" or "cores"
	Seconds float64 `json:"seconds"`
}

// forecastPassesMax bounds a forecast; beyond it the result is a lower bound.
const forecastPassesMax = 1 << 22

// Forecast runs the policy of WaveModel.Next forward over jobs, without doing anything, and says
// what it would take: each job generates Expect tokens. Cost: passes times sequences in flight.
func Forecast(m WaveModel, jobs []Job) ForecastResult {
	r := forecast(m, jobs)
	ram, disk, cores := m, m, m
	ram.ResidentGroups *= 2
	ram.KVTokens *= 2
	ram.SequencesMax *= 2
	disk.Bandwidth *= 2
	for _, s := range []*float64{&cores.PassSeconds, &cores.GroupSeconds, &cores.DecodeRowSeconds,
		&cores.PrefillRowSeconds, &cores.AttendSeconds} {
		*s /= 2
	}
	for _, h := range []struct {
		what string
		m    WaveModel
	}{{"RAM", ram}, {"disk", disk}, {"cores", cores}} {
		r.Helps = append(r.Helps, Help{h.what, forecast(h.m, jobs).Seconds})
	}
	sortHelps(r.Helps)
	switch {
	case r.DiskBound <= r.Seconds/2:
		r.Bottleneck = "cores"
	case r.Helps[0].What == "RAM":
		r.Bottleneck = "memory"
	default:
		r.Bottleneck = "disk"
	}
	return r
}

// sortHelps orders by seconds, stably.
func sortHelps(h []Help) {
	for i := range h {
		for j := i; j > 0 && h[j].Seconds < h[j-1].Seconds; j-- {
			h[j], h[j-1] = h[j-1], h[j]
		}
	}
}

// forecaster is the state of a forecast.
type forecaster struct {
	m    WaveModel
	s    WaveState
	w    Wave
	r    ForecastResult
	rows int64
}

func forecast(m WaveModel, jobs []Job) ForecastResult {
	f := forecaster{m: m}
	f.r.Balanced = m.BalancedRows()
	f.queue(jobs)
	for f.r.Passes < forecastPassesMax && len(f.s.Active)+len(f.s.Waiting) > 0 {
		f.m.Next(f.s, &f.w)
		if f.w.Decode+f.w.Prefill+len(f.w.Preempt)+len(f.w.Admit) == 0 {
			break
		}
		f.count()
		f.advance()
	}
	return f.result()
}

// queue lists the jobs that fit, in the order in which they start.
func (f *forecaster) queue(jobs []Job) {
	order := LongestFirst(jobs)
	if f.m.InOrder {
		for i := range order {
			order[i] = i
		}
	}
	f.s.Waiting = make([]Job, 0, len(jobs))
	for _, i := range order {
		if !f.m.Fits(jobs[i]) {
			f.r.Refused++
			continue
		}
		f.s.Waiting = append(f.s.Waiting, jobs[i])
	}
}

// count adds up the figures of a pass.
func (f *forecaster) count() {
	w, r := &f.w, &f.r
	r.Passes++
	r.Seconds += w.Seconds
	r.LoadSeconds += w.LoadSeconds
	r.ComputeSecs += w.ComputeSeconds
	r.LoadBytes += w.LoadBytes
	r.PrefillTokens += int64(w.Prefill)
	r.Preemptions += len(w.Preempt)
	f.rows += int64(w.Decode + w.Prefill)
	if w.LoadSeconds > w.ComputeSeconds {
		r.DiskBound += w.Seconds
		if w.KVLimited {
			r.KVLimited += w.Seconds
		}
	}
}

// advance applies a pass: sequences grow, end, come and go.
func (f *forecaster) advance() {
	s, w := &f.s, &f.w
	back := make([]Job, 0, len(w.Preempt))
	for _, i := range w.Preempt {
		a := s.Active[i]
		back = append(back, a.Preempted(false))
		s.Active[i].Prompt = -1 // gone
	}
	for _, rows := range w.Admit {
		s.Active = append(s.Active, Active{Job: s.Waiting[0]})
		s.Waiting = s.Waiting[1:]
		w.Rows = append(w.Rows, rows)
	}
	f.r.SequencesPeak = max(f.r.SequencesPeak, len(s.Active)-len(w.Preempt))
	if len(back) > 0 {
		s.Waiting = append(back, s.Waiting...)
	}
	kept, held := s.Active[:0], int64(0)
	for i, a := range s.Active {
		if a.Prompt < 0 {
			continue
		}
		if a.Fed < a.Prompt {
			a.Fed += w.Rows[i]
		}
		if a.Fed >= a.Prompt && w.Rows[i] > 0 {
			a.New++
			f.r.DecodeTokens += int64(min(a.expect(), 1))
		}
		held += f.m.pages(a.tokens())
		if a.Fed < a.Prompt || a.New < a.expect() {
			kept = append(kept, a)
		}
	}
	s.Active = kept
	f.r.KVTokensPeak = max(f.r.KVTokensPeak, held)
}

func (f *forecaster) result() ForecastResult {
	r := f.r
	if r.Seconds > 0 {
		r.TokensPerS = float64(r.PrefillTokens+r.DecodeTokens) / r.Seconds
	}
	if r.Passes > 0 {
		r.RowsMean = float64(f.rows) / float64(r.Passes)
	}
	return r
}
