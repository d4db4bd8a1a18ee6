package arch

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/moering/moering/offload/store"
)

const families9 = "../../../tests/testdata/families/"

func load(t *testing.T, path string) *Model {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Load(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Both formats of one checkpoint must give the same blueprint, apart from the order of rotation and
// the way the llama3 rule is carried.
func TestFormatsAgree(t *testing.T) {
	dirs, err := filepath.Glob(families9 + "*/hf")
	if err != nil || len(dirs) != 9 {
		t.Fatalf("%d families, %v", len(dirs), err)
	}
	for _, dir := range dirs {
		hf, gguf := load(t, dir), load(t, filepath.Join(filepath.Dir(dir), "model.gguf"))
		a, b := hf.Spec, gguf.Spec
		fa, sa := a.Rope.Frequencies()
		fb, sb := b.Rope.Frequencies()
		for i := range fa {
			if d := fa[i] - fb[i]; d > 1e-6*fa[i] || d < -1e-6*fa[i] || sa != sb {
				t.Errorf("%s: frequency %d: %g and %g, scale %g and %g", dir, i, fa[i], fb[i], sa, sb)
			}
		}
		a.Rope, b.Rope = Rope{}, Rope{}
		if a.Experts > 0 {
			a.DenseWidth, b.DenseWidth = 0, 0
		}
		if a.Family == "mixtral" {
			b.Normalize = a.Normalize && b.Normalize
		}
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s:\n%+v\n%+v", dir, a, b)
		}
		if len(hf.Groups) != len(gguf.Groups) || len(hf.Head) != len(gguf.Head) {
			t.Errorf("%s: %d and %d groups", dir, len(hf.Groups), len(gguf.Groups))
		}
	}
}

// The configuration that transformers 5 saves reads the same as the published one.
func TestConfigSpellingsAgree(t *testing.T) {
	files, err := filepath.Glob(families9 + "*/config.v5.json")
	if err != nil || len(files) != 9 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		var specs [2]Spec
		for i, path := range []string{file, filepath.Join(filepath.Dir(file), "hf/config.json")} {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			c, err := parseConfig(text)
			if err == nil {
				err = specs[i].fromConfig(c)
			}
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
		}
		if !reflect.DeepEqual(specs[0], specs[1]) {
			t.Errorf("%s:\n%+v\n%+v", file, specs[0], specs[1])
		}
	}
}

func TestUnknownFieldIsRefusedByName(t *testing.T) {
	text, err := os.ReadFile(families9 + "llama/hf/config.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`"hidden_act": "silu"`, `"hidden_act": "gelu"`},
		{`"model_type": "llama"`, `"model_type": "falcon9"`},
		{`"hidden_size"`, `"logit_soft_cap": 30, "hidden_size"`},
		{`"rope_type": "llama3"`, `"rope_type": "longrope"`},
	} {
		c, err := parseConfig([]byte(strings.Replace(string(text), change[0], change[1], 1)))
		if err != nil {
			t.Fatal(err)
		}
		var s Spec
		err = s.fromConfig(c)
		if err == nil {
			err = s.validate()
		}
		name := strings.Trim(strings.Split(change[1], ":")[0], `"`)
		if name == "rope_type" {
			name = "longrope"
		}
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", change[1], err)
		}
	}
}
