package tests

import (
	"fmt"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// browser finds a Chromium: MOERING_BROWSER names one, else it is searched for by its usual names.
func browser(t *testing.T) string {
	t.Helper()
	names := []string{"chromium", "chromium-browser", "google-chrome", "chrome"}
	if name := os.Getenv("MOERING_BROWSER"); name != "" {
		names = []string{name}
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skipf("none of %v is installed; MOERING_BROWSER names another Chromium", names)
	return ""
}

// TestReportInABrowser has the page about a job drawn by a real browser, where there is one: it loads
// nothing, has nothing to complain about, and can be read in light and in dark.
func TestReportInABrowser(t *testing.T) {
	chromium := browser(t)
	dir := t.TempDir()
	in, page := filepath.Join(dir, "in.txt"), filepath.Join(dir, "report.html")
	var lines []string
	for i := range 60 {
		lines = append(lines, strings.Repeat("x", 1+i%7)+fmt.Sprintf(" := f%d(<&>", i))
	}
	if err := os.WriteFile(in, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, exec.Command("go", "run", "../cmd/moering", "batch", "-m", batchModel, "-i", in,
		"-o", filepath.Join(dir, "out"), "-n", "30", "--sequences", "16", "--report", page))
	show := func(args ...string) (stdout, stderr string) {
		t.Helper()
		args = append([]string{"--headless=new", "--disable-gpu", "--no-first-run",
			"--disable-background-networking", "--user-data-dir=" + filepath.Join(dir, "profile"),
			"--enable-logging=stderr", "--window-size=1000,1900"}, args...)
		if os.Getuid() == 0 { // where the browser refuses its sandbox
			args = append(args, "--no-sandbox")
		}
		cmd := exec.Command(chromium, append(args, "file://"+page)...)
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, errs.String())
		}
		return out.String(), errs.String()
	}
	dom, log := show("--dump-dom")
	if strings.Contains(log, "CONSOLE") {
		t.Errorf("the browser complains:\n%s", log)
	}
	for what, n := range map[string]int{"<svg": 5, "<polyline": 6, "</table>": 2, "</html>": 1} {
		if got := strings.Count(dom, what); got != n {
			t.Errorf("%d times %s, want %d", got, what, n)
		}
	}
	if bad := regexp.MustCompile(`NaN|Inf|undefined|e[+]0`).FindString(dom); bad != "" {
		t.Errorf("the page has %s", bad)
	}
	for scheme, dark := range map[string]bool{"1": false, "0": true} { // as Blink numbers them
		shot := filepath.Join(dir, "shot"+scheme+".png")
		show("--blink-settings=preferredColorScheme="+scheme, "--hide-scrollbars", "--screenshot="+shot)
		paper, ink := luminance(t, shot)
		if paper < 0.5 != dark || max(paper, ink)-min(paper, ink) < 0.6 {
			t.Errorf("dark %v: paper of luminance %.2f, ink of %.2f", dark, paper, ink)
		}
	}
	if keep := os.Getenv("MOERING_BROWSER_SHOTS"); keep != "" { // for a person to look at
		run(t, exec.Command("cp", page, filepath.Join(dir, "shot0.png"), filepath.Join(dir, "shot1.png"),
			keep))
	}
}

// luminance returns, from 0 to 1, that of the corner of a picture, and the one farthest from it.
func luminance(t *testing.T, path string) (paper, ink float64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	paper = grey(m, 0, 0)
	ink = paper
	far := 0
	for y := range m.Bounds().Dy() {
		for x := range m.Bounds().Dx() {
			g := grey(m, x, y)
			if max(g, paper)-min(g, paper) > max(ink, paper)-min(ink, paper) {
				ink = g
			}
			if max(g, paper)-min(g, paper) > 0.3 {
				far++
			}
		}
	}
	if far < m.Bounds().Dx()*m.Bounds().Dy()/200 {
		t.Errorf("%s: only %d dots are drawn", filepath.Base(path), far)
	}
	return paper, ink
}

func grey(m image.Image, x, y int) float64 {
	r, g, b, _ := m.At(x, y).RGBA()
	return (0.3*float64(r) + 0.6*float64(g) + 0.1*float64(b)) / 0xffff
}
