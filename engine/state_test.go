package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"testing"
)

func saved(t *testing.T, s *Session) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Save(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A restored session continues as the one that was saved, to the bit, on another engine too; the
// model's state is the same whatever page the tokens lie in.
func TestRestoredSessionContinuesToTheBit(t *testing.T) {
	e := open(t, tiny, Options{Context: 256, Sequences: 2})
	other := open(t, tiny, Options{Context: 256, Sequences: 3, Chunk: 5})
	for _, n := range []int{1, 31, 32, 33, 100} {
		s := session(t, e)
		prompt := make([]int32, n)
		for i := range prompt {
			prompt[i] = int32(37*i+n) % 2000
		}
		if err := s.Feed(context.Background(), prompt); err != nil {
			t.Fatal(err)
		}
		state := saved(t, s)
		used := session(t, other)
		if err := used.Feed(context.Background(), []int32{1, 2, 3}); err != nil {
			t.Fatal(err)
		}
		r := bytes.NewReader(append(slices.Clone(state), "more"...))
		if err := used.Restore(r); err != nil {
			t.Fatal(err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "more" {
			t.Errorf("restore left %q", rest)
		}
		if !slices.Equal(used.Tokens(), prompt) || !slices.Equal(used.Logits(), s.Logits()) {
			t.Error("tokens or logits differ")
		}
		if !bytes.Equal(saved(t, used), state) {
			t.Error("the state of the restored session differs")
		}
		next := []int32{5, 6, 7, 8}
		if got, want := score(t, used, next), score(t, s, next); !slices.Equal(got, want) {
			t.Errorf("logits after %d restored tokens differ", n)
		}
		s.Close()
		used.Close()
	}
}

// Every single damaged byte of the head, and any cut, is an error, after which the session is empty
// and works.
func TestDamagedStateIsRefused(t *testing.T) {
	e := open(t, filepath.Join(families, "mixtral", "model.gguf"), Options{Context: 64})
	s := session(t, e)
	if err := s.Feed(context.Background(), []int32{1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	state := saved(t, s)
	check := func(what string, at int, damaged []byte) {
		t.Helper()
		err := s.Restore(bytes.NewReader(damaged))
		if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrContext) {
			t.Fatalf("%s at %d: %v", what, at, err)
		}
		if s.Len() != 0 || s.Logits() != nil {
			t.Fatalf("%s at %d: the session is not empty", what, at)
		}
	}
	for i := 0; i < len(state); i += 1 + i/60*37 {
		damaged := slices.Clone(state)
		damaged[i] ^= 0x10
		check("damage", i, damaged)
		check("cut", i, state[:i])
	}
	if err := s.Restore(bytes.NewReader(state)); err != nil || s.Len() != 3 {
		t.Error(err)
	}
	another := open(t, filepath.Join(families, "olmoe", "model.gguf"), Options{Context: 64})
	if err := session(t, another).Restore(bytes.NewReader(state)); !errors.Is(err, ErrFormat) {
		t.Errorf("on another model: %v", err)
	}
	full := errors.New("no space left")
	if err := s.Save(failing{full}); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func FuzzRestore(f *testing.F) {
	e, err := Open(filepath.Join(families, "mixtral", "model.gguf"), Options{Context: 64})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { e.Close() })
	s, err := e.NewSession()
	if err != nil {
		f.Fatal(err)
	}
	for _, ids := range [][]int32{nil, {1, 2, 3}} {
		if err := s.Feed(context.Background(), ids); err != nil {
			f.Fatal(err)
		}
		var b bytes.Buffer
		if err := s.Save(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
		f.Add(b.Bytes()[:b.Len()/2])
	}
	f.Fuzz(func(t *testing.T, state []byte) {
		if s.Restore(bytes.NewReader(state)) == nil {
			var again bytes.Buffer
			if err := s.Save(&again); err != nil || !bytes.HasPrefix(state, again.Bytes()) {
				t.Errorf("a state that was taken is written otherwise: %v", err)
			}
		}
	})
}
