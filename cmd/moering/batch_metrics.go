package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/moering/moering/engine"
)

// metricsServer serves a job's figures.
type metricsServer struct {
	listener net.Listener
	server   *http.Server
	ended    chan error
}

// Bounds on how long a client of the metrics, and closing, may take.
const (
	metricsReadMax  = 10 * time.Second
	metricsCloseMax = 2 * time.Second
)

// serveMetrics listens on a port, or on host:port; without a host, on this machine alone.
func serveMetrics(address string, w *batchWatch) (*metricsServer, error) {
	if !strings.Contains(address, ":") {
		address = ":" + address
	}
	if strings.HasPrefix(address, ":") {
		address = "127.0.0.1" + address
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w: metrics: %w", engine.ErrUsage, err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(batchCollector{w})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	m := &metricsServer{listener: listener, ended: make(chan error, 1),
		server: &http.Server{Handler: mux, ReadHeaderTimeout: metricsReadMax}}
	go func() { m.ended <- m.server.Serve(listener) }()
	return m, nil
}

func (m *metricsServer) address() string { return m.listener.Addr().String() }

func (m *metricsServer) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), metricsCloseMax)
	defer cancel()
	err := m.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = m.server.Close()
	}
	if ended := <-m.ended; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

// batchCollector turns the latest progress into metrics when it is asked.
type batchCollector struct{ w *batchWatch }

// batchMetric is one of them.
type batchMetric struct {
	name, help string
	kind       prometheus.ValueType
	value      func(p *engine.BatchProgress) float64
}

func batchMetrics() []batchMetric {
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	type progress = engine.BatchProgress
	return []batchMetric{
		{"requests", "Requests of the job.", gauge,
			func(p *progress) float64 { return float64(p.Requests) }},
		{"requests_finished_total", "Requests answered or refused, by this run or an earlier one.",
			counter, func(p *progress) float64 { return float64(p.Finished) }},
		{"requests_failed_total", "Requests refused.", counter,
			func(p *progress) float64 { return float64(p.Failed) }},
		{"sequences", "Sequences in flight.", gauge,
			func(p *progress) float64 { return float64(p.Active) }},
		{"tokens_in_flight", "Tokens in the KV cache.", gauge,
			func(p *progress) float64 { return float64(p.TokensInFlight) }},
		{"pass_rows", "Rows of the last pass.", gauge,
			func(p *progress) float64 { return float64(p.Rows) }},
		{"prompt_tokens_total", "Tokens of prompts computed.", counter,
			func(p *progress) float64 { return float64(p.PromptTokens) }},
		{"generated_tokens_total", "Tokens generated.", counter,
			func(p *progress) float64 { return float64(p.NewTokens) }},
		{"shared_tokens_total", "Tokens of prompts that another request had computed.", counter,
			func(p *progress) float64 { return float64(p.SharedTokens) }},
		{"preemptions_total", "Times that a request gave its memory to others.", counter,
			func(p *progress) float64 { return float64(p.Preempted) }},
		{"moved_bytes_total", "Keys and values of such requests, out of the KV cache and in again.",
			counter, func(p *progress) float64 { return float64(p.MovedBytes) }},
		{"left_seconds", "Estimated time to the end; 0 while unknown.", gauge,
			func(p *progress) float64 { return p.Left.Seconds() }},
		{"passes_total", "Passes through the model.", counter,
			func(p *progress) float64 { return float64(p.Stats.Passes) }},
		{"pass_seconds_total", "Time of passes.", counter,
			func(p *progress) float64 { return p.Stats.Busy.Seconds() }},
		{"wait_seconds_total", "Time in which computing stood still for weights.", counter,
			func(p *progress) float64 { return p.Stats.Wait.Seconds() }},
		{"read_bytes_total", "Expert weights read from disk.", counter,
			func(p *progress) float64 { return float64(p.Stats.BytesRead) }},
		{"group_hits_total", "Expert groups found in memory.", counter,
			func(p *progress) float64 { return float64(p.Stats.Hits) }},
		{"group_misses_total", "Expert groups that had to be waited for.", counter,
			func(p *progress) float64 { return float64(p.Stats.Misses + p.Stats.Late) }},
		{"memory_bytes", "Resident memory of the process.", gauge,
			func(p *progress) float64 { return float64(p.Memory) }},
		{"memory_budget_bytes", "What it may be.", gauge,
			func(p *progress) float64 { return float64(p.Budget) }},
	}
}

func (m batchMetric) desc() *prometheus.Desc {
	return prometheus.NewDesc("moering_batch_"+m.name, m.help, nil, nil)
}

// Describe is part of prometheus.Collector.
func (c batchCollector) Describe(to chan<- *prometheus.Desc) {
	for _, m := range batchMetrics() {
		to <- m.desc()
	}
}

// Collect is part of prometheus.Collector.
func (c batchCollector) Collect(to chan<- prometheus.Metric) {
	p := c.w.latest()
	for _, m := range batchMetrics() {
		to <- prometheus.MustNewConstMetric(m.desc(), m.kind, m.value(&p))
	}
}
