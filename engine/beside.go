package engine

import (
	"errors"

	"github.com/moering/moering/engine/internal/forward"
	"github.com/moering/moering/engine/internal/weights"
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/sched"
)

// openBeside opens the processor that computes experts beside the device, and measures what decides
// between the two. host and device are the sections of experts, which nothing uses yet.
func (e *Engine) openBeside(host, device kernels.Span) (err error) {
	if e.processor, err = openProcessor(e.options); err != nil {
		return err
	}
	p := besideProbe{group: &e.groups.experts[len(e.groups.experts)-1], exact: e.options.Exact}
	r, err := p.rates(e.device, e.processor, device, host, e.groups.deviceSection)
	if err != nil {
		return err
	}
	e.plan.MoveRates = r
	e.options.logger().Info("experts beside the device", "processor", e.processor.Info().Detail, "rates", r)
	e.beside = &forward.Beside{Device: e.processor, Experts: e.below[0], Rates: r,
		Takes: e.options.takes}
	return nil
}

// Bounds of the probe: a tenth of a second or so on a machine that is worth a GPU.
const (
	besideTimes  = 3         // the fastest counts
	besideGroups = 8         // that an op has together
	besideRows   = 16        // of each; and one
	besideBytes  = 256 << 20 // of sections, so that caches hold few of them
	// besideValue fills the weights: numbers of an ordinary size in every format, which zero is not.
	besideValue = 0x3C
)

// besideProbe measures with the sections of the tiers, before they hold anything.
type besideProbe struct {
	group *weights.Group
	exact bool
}

// rates measures both sides and the bus. Sections of both memories are of the device's size, since what
// is a section there fits into one of the host's.
func (p *besideProbe) rates(device, processor kernels.Device, there, here kernels.Span, section int64,
) (r sched.Rates, err error) {
	n := min(there.Bytes, here.Bytes, max(besideBytes, besideGroups*section)) / section
	there, here = there.Slice(0, n*section), here.Slice(0, n*section)
	b := here.Host()
	for i := range b[:section] {
		b[i] = besideValue
	}
	for at := section; at < here.Bytes; at += section {
		copy(b[at:at+section], b)
	}
	dim := p.group.Parts[0].Cols
	r.GroupBytes, r.RowBytes = p.group.Bytes(), float64(2*4*dim) // there and back
	r.BusSeconds, r.BusBytesPerS, err = p.bus(device, there, here, section)
	if err == nil {
		r.HostGroupSeconds, r.HostRowSeconds, err = p.experts(processor, here, section)
	}
	if err == nil {
		r.DeviceGroupSeconds, r.DeviceRowSeconds, err = p.experts(device, there, section)
	}
	return r, err
}

// bus copies a row, and then all sections.
func (p *besideProbe) bus(d kernels.Device, there, here kernels.Span, section int64,
) (seconds, bytesPerS float64, err error) {
	s, err := d.NewStream("probe")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	row := int64(p.group.Parts[0].Cols) * 4
	seconds, err = fastest(func() error {
		s.Copy(there.Slice(0, row), here.Slice(0, row))
		return s.Sync()
	})
	if err != nil {
		return 0, 0, err
	}
	all, err := fastest(func() error {
		for at := int64(0); at < there.Bytes; at += section {
			s.Copy(there.Slice(at, section), here.Slice(at, section))
		}
		return s.Sync()
	})
	return seconds, float64(there.Bytes) / max(all-seconds, all/2), err
}

// experts computes a few at a time, with one row each and with more: the slope is what a row costs.
func (p *besideProbe) experts(d kernels.Device, memory kernels.Span, section int64,
) (group, row float64, err error) {
	s, err := d.NewStream("probe")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	dim, width := p.group.Parts[0].Cols, p.group.Parts[0].Rows
	n := int(memory.Bytes / section)
	together := min(n, besideGroups)
	input := besideRows * int64(dim) * 4
	b, err := d.Alloc(int64(together+1) * input)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, b.Free()) }()
	x, y := b.All().Slice(0, input), b.All().Slice(input, int64(together)*input)
	index := make([]int32, together*besideRows)
	for i := range index {
		index[i] = int32(i)
	}
	next := 0
	var seconds [2]float64
	for i, rows := range [2]int{1, besideRows} {
		seconds[i], err = fastest(func() error {
			op := kernels.ExpertFFN{X: x, Out: y, Dim: dim, Width: width, Exact: p.exact}
			for k := range together {
				w := p.group.In(memory.Slice(int64(next%n)*section, section), nil)
				op.Experts = append(op.Experts, kernels.Expert{Gate: w[0], Up: w[1], Down: w[2],
					Rows: index[:rows], Slots: index[k*rows : (k+1)*rows]})
				next++
			}
			s.Run(&op)
			return s.Sync()
		})
		if err != nil {
			return 0, 0, err
		}
		seconds[i] /= float64(together)
	}
	row = max(seconds[1]-seconds[0], 0) / (besideRows - 1)
	return max(seconds[0]-row, 0), row, nil
}

// fastest returns the seconds of the fastest of a few runs; one before them, which warms up, is not
// counted.
func fastest(f func() error) (seconds float64, err error) {
	for i := range besideTimes + 1 {
		start := clock()
		if err := f(); err != nil {
			return 0, err
		}
		if took := clock().Sub(start).Seconds(); i < 2 || took < seconds {
			seconds = took
		}
	}
	return seconds, nil
}
