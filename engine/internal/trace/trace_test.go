package trace

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestTimelineIsJSONWithEveryLaneNamed(t *testing.T) {
	var out bytes.Buffer
	start := time.Now()
	r := New(&out, start)
	r.Span(Reads+2, "demand", 3, 17, 4096, start.Add(time.Millisecond), start.Add(3*time.Millisecond))
	r.Span(Compute, "layer", 3, -1, 0, start, start.Add(time.Microsecond))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r.Span(Compute, "late", 0, 0, 0, start, start) // after the end: dropped
	var got struct {
		Events []struct {
			Phase    string `json:"ph"`
			Name     string
			Lane     int     `json:"tid"`
			Begin    float64 `json:"ts"`
			Duration float64 `json:"dur"`
			Args     struct {
				Name  string
				Bytes int64
			}
		} `json:"traceEvents"`
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v in\n%s", err, out.String())
	}
	named := map[int]string{}
	var spans []string
	for _, e := range got.Events {
		if e.Name == "thread_name" {
			named[e.Lane] = e.Args.Name
		}
		if e.Phase == "X" {
			spans = append(spans, e.Name)
		}
		if e.Name == "demand L3 E17" && (e.Begin != 1000 || e.Duration != 2000 ||
			e.Args.Bytes != 4096 || named[e.Lane] != "expert reads 3") {
			t.Errorf("%+v in lane %q", e, named[e.Lane])
		}
	}
	if len(named) != int(lanes) || strings.Join(spans, ",") != "demand L3 E17,layer L3" {
		t.Errorf("%d lanes, spans %v", len(named), spans)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space") }

func TestFailureToWriteIsReportedOnce(t *testing.T) {
	r := New(full{}, time.Now())
	if err := r.Close(); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Error(err)
	}
	var none *Recorder
	none.Span(Compute, "x", 0, 0, 0, none.Now(), none.Now())
	if err := none.Close(); err != nil {
		t.Error(err)
	}
}
