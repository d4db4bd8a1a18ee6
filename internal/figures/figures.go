// Package figures is what tests that measure a GPU have in common (tests/gpu/run.sh): the flag that asks
// for it, and where their figures go. Only tests import it.
package figures

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"testing"
	"time"
)

var size = flag.String("measure", "", "measure on a GPU: full, or tiny for a dry run")

// Full reports whether -measure asks for full sizes, and not tiny ones; without the flag the test is skipped.
func Full(t testing.TB) bool {
	t.Helper()
	switch *size {
	case "":
		t.Skip("it measures a GPU: -measure full, or tiny for a dry run")
	case "full", "tiny":
	default:
		t.Fatalf("-measure %q is neither full nor tiny", *size)
	}
	return *size == "full"
}

// Record logs a figure as a JSON line, and adds it to the file that MOERING_MEASURE_FILE names, if any; with
// it the date, and commit and driver, as MOERING_COMMIT and MOERING_DRIVER say them.
func Record(t testing.TB, what string, fields map[string]any) {
	t.Helper()
	fields["what"], fields["commit"] = what, os.Getenv("MOERING_COMMIT")
	fields["date"] = time.Now().UTC().Format(time.RFC3339)
	if v := os.Getenv("MOERING_DRIVER"); v != "" {
		fields["driver"] = v
	}
	if *size != "full" {
		fields["dry_run"] = true
	}
	line, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", line)
	path := os.Getenv("MOERING_MEASURE_FILE")
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.Write(append(line, '\n'))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}
