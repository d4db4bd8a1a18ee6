package batch

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
)

// Report is a page about one run of a job: everything in one file, drawn as SVG, nothing loaded.
type Report struct {
	Title      string
	Facts      [][2]string
	Charts     []Chart
	Histograms []Bars
	Slow       []SlowRequest
}

// Chart is lines over seconds.
type Chart struct {
	Title, Unit string
	Names       []string
	at          []float64
	values      [][]float64 // a line each
}

// Add appends a point to every line.
func (c *Chart) Add(seconds float64, values ...float64) {
	c.at = append(c.at, seconds)
	c.values = append(c.values, values)
}

// Bars is a histogram with a title.
type Bars struct {
	Title     string
	Histogram Histogram
}

// SlowRequest is one of the requests that took longest.
type SlowRequest struct {
	ID          string
	Seconds     float64
	Prompt, New int
}

// The page follows the reader's choice of light or dark, and forbids the browser to load anything.
const (
	reportPolicy = "default-src 'none'; style-src 'unsafe-inline'"
	reportStyle  = `:root{color-scheme:light dark;--ink:#222;--paper:#fff;--dim:#555;--grid:#ddd;` +
		`--l0:#1565a8;--l1:#c62828;--l2:#2e7d32}@media(prefers-color-scheme:dark){:root{--ink:#e0e0e0;` +
		`--paper:#161616;--dim:#aaa;--grid:#3c3c3c;--l0:#6cb4f0;--l1:#ff8a80;--l2:#81c784}}` +
		`body{font:14px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;` +
		`color:var(--ink);background:var(--paper);overflow-wrap:anywhere}h1{font-size:1.4rem}` +
		`h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}td,th{padding:.2rem .8rem ` +
		`.2rem 0;text-align:left;vertical-align:top}th{white-space:nowrap}td.n,th.n{text-align:right;` +
		`white-space:nowrap}svg{width:100%;height:auto}text{font:11px system-ui,sans-serif;` +
		`fill:var(--dim)}.grid{stroke:var(--grid);stroke-width:1}.l0{stroke:var(--l0)}` +
		`.l1{stroke:var(--l1)}.l2{stroke:var(--l2)}polyline{fill:none;stroke-width:1.5}` +
		`.bar,.k0{fill:var(--l0)}.k1{fill:var(--l1)}.k2{fill:var(--l2)}`
)

// Write renders the page.
func (r *Report) Write(b *bytes.Buffer) {
	title := html.EscapeString(r.Title)
	fmt.Fprintf(b, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"+
		"<meta http-equiv=\"Content-Security-Policy\" content=\"%s\">\n<meta name=\"viewport\" "+
		"content=\"width=device-width, initial-scale=1\">\n<title>%s</title>\n<style>%s</style>\n</head>\n"+
		"<body>\n<h1>%s</h1>\n<table>\n", reportPolicy, title, reportStyle, title)
	for _, f := range r.Facts {
		fmt.Fprintf(b, "<tr><th>%s</th><td>%s</td></tr>\n", html.EscapeString(f[0]),
			html.EscapeString(f[1]))
	}
	b.WriteString("</table>\n")
	for i := range r.Charts {
		r.Charts[i].write(b)
	}
	for i := range r.Histograms {
		r.Histograms[i].write(b)
	}
	if len(r.Slow) > 0 {
		b.WriteString("<h2>Slowest requests, from their first pass to their last</h2>\n<table>\n" +
			"<tr><th>custom_id</th><th class=\"n\">seconds</th><th class=\"n\">prompt tokens</th>" +
			"<th class=\"n\">generated</th></tr>\n")
		for _, s := range r.Slow {
			fmt.Fprintf(b, "<tr><td>%s</td><td class=\"n\">%.2f</td><td class=\"n\">%d</td>"+
				"<td class=\"n\">%d</td></tr>\n", html.EscapeString(s.ID), s.Seconds, s.Prompt, s.New)
		}
		b.WriteString("</table>\n")
	}
	b.WriteString("</body>\n</html>\n")
}

// The drawing area of a chart, in the units of its viewBox.
const (
	chartWidth, chartHeight = 800.0, 220.0
	chartLeft, chartRight   = 60.0, 10.0
	chartTop, chartBottom   = 20.0, 25.0
	chartTicks              = 4
	barMax                  = 120.0
)

// axes draws the frame: values up to top, and where x labels are to go.
func axes(b *bytes.Buffer, title, unit string, top float64) {
	fmt.Fprintf(b, "<h2>%s</h2>\n<svg viewBox=\"0 0 %g %g\" role=\"img\" aria-label=\"%s\">\n",
		html.EscapeString(title), chartWidth, chartHeight, html.EscapeString(title))
	for i := range chartTicks + 1 {
		v := top * float64(i) / chartTicks
		y := height(v, top)
		fmt.Fprintf(b, "<line class=\"grid\" x1=\"%g\" x2=\"%g\" y1=\"%.1f\" y2=\"%.1f\"/>"+
			"<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", chartLeft,
			chartWidth-chartRight, y, y, chartLeft-6, y+4, number(v))
	}
	fmt.Fprintf(b, "<text x=\"%g\" y=\"12\">%s</text>\n", chartLeft, html.EscapeString(unit))
}

func height(v, top float64) float64 {
	return chartHeight - chartBottom - v/top*(chartHeight-chartTop-chartBottom)
}

// number renders a tick with three digits.
func number(v float64) string {
	for _, u := range []struct {
		unit float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e4, "k"}} {
		if v >= u.unit {
			if u.name == "k" {
				u.unit = 1e3
			}
			return digits(v/u.unit) + u.name
		}
	}
	return digits(v)
}

// digits rounds to three, without an exponent where none is needed.
func digits(v float64) string {
	if v < 1e-3 {
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	p := math.Pow(10, 2-math.Floor(math.Log10(v)))
	return strconv.FormatFloat(math.Round(v*p)/p, 'f', -1, 64)
}

// span is the unit of a time axis that ends after so many seconds.
func span(end float64) (unit float64, name string) {
	switch {
	case end >= 3*3600:
		return 3600, "h"
	case end >= 3*60:
		return 60, "min"
	}
	return 1, "s"
}

// ceiling is the least of 1, 2 and 5 times a power of ten that is not below v.
func ceiling(v float64) float64 {
	if !(v > 0) || math.IsInf(v, 0) {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5, 10} {
		if m*p >= v {
			return m * p
		}
	}
	return 10 * p
}

func (c *Chart) write(b *bytes.Buffer) {
	if len(c.at) == 0 {
		return
	}
	top := 0.0
	for _, v := range c.values {
		for _, y := range v {
			top = max(top, y)
		}
	}
	top = ceiling(top)
	axes(b, c.Title, c.Unit, top)
	end := max(c.at[len(c.at)-1], 1e-9)
	place := func(t float64) float64 {
		return chartLeft + t/end*(chartWidth-chartLeft-chartRight)
	}
	for i, name := range c.Names {
		fmt.Fprintf(b, "<polyline class=\"l%d\" points=\"", i)
		fmt.Fprintf(b, "%.1f,%.1f ", place(0), height(c.values[0][i], top)) // what led to the first point
		for j, t := range c.at {
			fmt.Fprintf(b, "%.1f,%.1f ", place(t), height(c.values[j][i], top))
		}
		fmt.Fprintf(b, "\"/>\n<text class=\"k%d\" x=\"%g\" y=\"12\">%s</text>\n", i,
			chartLeft+90+140*float64(i), html.EscapeString(name))
	}
	unit, name := span(end)
	for i := range chartTicks + 1 {
		t := end * float64(i) / chartTicks
		anchor := "middle"
		if i == chartTicks { // within the drawing
			anchor = "end"
		}
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%g\" text-anchor=\"%s\">%s %s</text>\n", place(t),
			chartHeight-6, anchor, digits(t/unit), name)
	}
	b.WriteString("</svg>\n")
}

func (h *Bars) write(b *bytes.Buffer) {
	first, last, most := -1, 0, 0
	for i, n := range h.Histogram.Counts {
		if n > 0 {
			last = i
			if first < 0 {
				first = i
			}
		}
		most = max(most, n)
	}
	if first < 0 {
		return
	}
	top := ceiling(float64(most))
	axes(b, h.Title, "requests", top)
	step := min((chartWidth-chartLeft-chartRight)/float64(last-first+1), barMax)
	for i := first; i <= last; i++ {
		x := chartLeft + step*float64(i-first)
		y := height(float64(h.Histogram.Counts[i]), top)
		label := "0"
		if i > 0 {
			label = fmt.Sprintf("%d–%d", 1<<(i-1), 1<<i-1)
		}
		if i == 1 {
			label = "1"
		}
		fmt.Fprintf(b, "<rect class=\"bar\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\">"+
			"<title>%d</title></rect>\n<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%s</text>\n",
			x+2, y, max(step-4, 1), chartHeight-chartBottom-y, h.Histogram.Counts[i], x+step/2,
			chartHeight-6, label)
	}
	b.WriteString("</svg>\n")
}
