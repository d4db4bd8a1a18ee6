package engine

import (
	"fmt"
	"slices"
)

// Fork returns a new session with the same tokens, whose keys and values it shares: only a page
// that is partly used is copied. Either session may go on, be truncated or closed without the other
// noticing. ErrContext is wrapped when Options.Sequences are open or the KV cache has no page left.
func (s *Session) Fork() (*Session, error) {
	if s.closed {
		return nil, ErrClosed
	}
	seq, err := s.seq.Fork(len(s.tokens))
	if err != nil {
		return nil, fmt.Errorf("fork: %w", mapError(err))
	}
	f := s.engine.newSession(seq)
	f.tokens, f.logits = slices.Clone(s.tokens), slices.Clone(s.logits)
	return f, nil
}
