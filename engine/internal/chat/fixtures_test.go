package chat

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// conversation is one entry of testdata/chats.json.
type conversation struct {
	Name                string
	Messages            json.RawMessage
	Tools               json.RawMessage
	Documents           json.RawMessage
	AddGenerationPrompt bool `json:"add_generation_prompt"`
	Tokens              map[string]string
	Extra               json.RawMessage
}

func (c *conversation) chat(t testing.TB) Chat {
	value := func(data []byte) Value {
		if data == nil {
			return Value{}
		}
		v, err := FromJSON(data)
		if err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		return v
	}
	out := Chat{Messages: value(c.Messages), Tools: value(c.Tools), Documents: value(c.Documents),
		AddGenerationPrompt: c.AddGenerationPrompt, Tokens: c.Tokens, Now: clock}
	if c.Extra != nil {
		out.Extra = variables(t, c.Extra)
	}
	return out
}

// publishedTemplates reads the templates under MOERING_FIXTURES and skips the test without them.
func publishedTemplates(t *testing.T) map[string]string {
	folder := os.Getenv("MOERING_FIXTURES")
	if folder == "" {
		t.Skip("MOERING_FIXTURES is not set: no published templates to compare")
	}
	paths, err := filepath.Glob(filepath.Join(folder, "templates", "*.jinja"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no templates under %s: %v", folder, err)
	}
	out := map[string]string{}
	for _, path := range paths {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(path)] = string(source)
	}
	return out
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestPublishedTemplatesGiveTheRecordedPrompts(t *testing.T) {
	templates := publishedTemplates(t)
	var chats []conversation
	readJSON(t, "testdata/chats.json", &chats)
	var golden map[string]struct {
		Source  string
		Prompts map[string]*string // nil: the reference raises
	}
	readJSON(t, "testdata/fixtures.json", &golden)
	prompts, failures := 0, 0
	for name, want := range golden {
		source, ok := templates[name]
		if !ok {
			t.Errorf("%s is not among the fixtures", name)
			continue
		}
		if digest(source) != want.Source {
			t.Errorf("%s is not the template the prompts were recorded from", name)
			continue
		}
		tmpl, err := Parse(name, source)
		if err != nil {
			t.Error(err)
			continue
		}
		for i := range chats {
			got, err := tmpl.RenderChat(chats[i].chat(t))
			hash, ok := want.Prompts[chats[i].Name]
			switch {
			case !ok:
				t.Errorf("%s, %s: no prompt recorded", name, chats[i].Name)
			case hash == nil && !errors.Is(err, ErrTemplate):
				t.Errorf("%s, %s: got %q, %v; want ErrTemplate", name, chats[i].Name, got, err)
			case hash == nil:
				failures++
			case err != nil:
				t.Errorf("%s: %v", chats[i].Name, err)
			case digest(got) != *hash:
				t.Errorf("%s, %s: another prompt:\n%s", name, chats[i].Name, got)
			default:
				prompts++
			}
		}
	}
	t.Logf("%d templates: %d prompts equal, %d conversations refused as the reference does",
		len(golden), prompts, failures)
}

// reference is Python's jinja2, served by testdata/make.py.
type reference struct {
	in  io.Writer
	out *bufio.Reader
}

// startReference starts the Python that MOERING_ORACLE_PYTHON names, or python3, and skips the test
// if it has no jinja2 3.1.
func startReference(t *testing.T) *reference {
	python := os.Getenv("MOERING_ORACLE_PYTHON")
	if python == "" {
		python = "python3"
	}
	check := exec.Command(python, "-c", "import jinja2; assert jinja2.__version__[:4] == '3.1.'")
	if err := check.Run(); err != nil {
		t.Skipf("%s has no jinja2 3.1 (set MOERING_ORACLE_PYTHON): %v", python, err)
	}
	cmd := exec.Command(python, "-W", "ignore", "testdata/make.py", "serve")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return &reference{in, bufio.NewReader(out)}
}

// ask renders a request; nil means that the reference raised.
func (r *reference) ask(t *testing.T, request map[string]any) *string {
	t.Helper()
	line, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.in.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	reply, err := r.out.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Output *string }
	if err := json.Unmarshal(bytes.TrimSpace(reply), &got); err != nil {
		t.Fatal(err)
	}
	return got.Output
}

func TestPublishedTemplatesAgreeWithTheReference(t *testing.T) {
	templates := publishedTemplates(t)
	ref := startReference(t)
	var chats []conversation
	readJSON(t, "testdata/chats.json", &chats)
	var raw []json.RawMessage
	readJSON(t, "testdata/chats.json", &raw)
	agreed := 0
	for name, source := range templates {
		tmpl, err := Parse(name, source)
		if err != nil {
			t.Error(err)
			continue
		}
		for i := range chats {
			want := ref.ask(t, map[string]any{"template": source, "chat": raw[i]})
			got, err := tmpl.RenderChat(chats[i].chat(t))
			if (err == nil) != (want != nil) || want != nil && got != *want {
				t.Errorf("%s, %s:\n got %q, %v\nwant %v", name, chats[i].Name, got, err, show(want))
				continue
			}
			agreed++
		}
	}
	t.Logf("%d templates, %d cases agree", len(templates), agreed)
}

func show(s *string) string {
	if s == nil {
		return "an error"
	}
	return *s
}

type rawJSON = json.RawMessage

func mustMarshal(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
