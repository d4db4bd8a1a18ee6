package tokenizer

// walker is the working memory of one call of Encode. It carries pieces of text through the split
// stages depth first, so that what is in hand is a word at a time and not lists of words.
type walker struct {
	t     *Tokenizer
	out   []int32
	merge mergeScratch
	segs  [2][]segment
	runes [][]rune // of each split stage: the piece that it is working on
	spans [][]span // likewise, for the stages that need to look ahead
	err   error
}

// What one walker keeps between calls is bounded; more than this is given back after the call.
const keptScratch = 1 << 20

func newWalker(t *Tokenizer) *walker {
	return &walker{t: t, runes: make([][]rune, len(t.split)), spans: make([][]span, len(t.split))}
}

// encode returns ids that are valid until the next call.
func (w *walker) encode(text string, parseSpecial bool) ([]int32, error) {
	w.trim()
	w.out, w.err = w.out[:0], nil
	a := &w.t.added
	w.segs[0] = a.find(w.segs[0][:0], &a.raw, text, parseSpecial)
	for _, s := range w.segs[0] {
		if s.id >= 0 {
			w.out = append(w.out, s.id)
			continue
		}
		w.stretch(text[s.start:s.end], s.start == 0, parseSpecial)
		if w.err != nil {
			return nil, w.err
		}
	}
	return w.out, nil
}

// stretch encodes the text between two added tokens. first says that it starts the whole text.
func (w *walker) stretch(text string, first, parseSpecial bool) {
	for _, n := range w.t.normalize {
		if text, w.err = n(text); w.err != nil {
			return
		}
	}
	a := &w.t.added
	w.segs[1] = a.find(w.segs[1][:0], &a.normalized, text, parseSpecial)
	for _, s := range w.segs[1] {
		if s.id >= 0 {
			w.out = append(w.out, s.id)
		} else {
			w.piece(0, text[s.start:s.end], first && s.start == 0)
		}
	}
}

// piece gives a piece of text to a split stage, or to the model behind the last. Empty pieces
// vanish.
func (w *walker) piece(stage int, text string, first bool) {
	switch {
	case text == "" || w.err != nil:
	case stage < len(w.t.split):
		w.t.split[stage].split(w, stage, text, first)
	default:
		w.out, w.err = w.t.model.appendWord(w.out, text, &w.merge)
	}
}

// trim drops buffers that a very long text has left behind.
func (w *walker) trim() {
	if cap(w.out) > keptScratch {
		w.out = nil
	}
	if cap(w.merge.symbols) > keptScratch {
		w.merge = mergeScratch{}
	}
	for i := range w.runes {
		if cap(w.runes[i]) > keptScratch {
			w.runes[i] = nil
		}
		if cap(w.spans[i]) > keptScratch {
			w.spans[i] = nil
		}
	}
}
