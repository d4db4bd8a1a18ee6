package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
)

// The side files of a Hugging Face directory that SideFile reads.
const (
	SideConfig           = "config.json"
	SideGenerationConfig = "generation_config.json"
	SideTokenizer        = "tokenizer.json"
	SideTokenizerConfig  = "tokenizer_config.json"
	SideSpecialTokens    = "special_tokens_map.json"
	SideChatTemplate     = "chat_template.jinja"
	SideChatTemplateJSON = "chat_template.json"
)

// Limits on side files. Large vocabularies take some 35 MB of tokenizer.json, and lists of modules
// that are not quantised some MB of config.json.
const (
	sideTokenizerBytesMax = 256 << 20
	sideBytesMax          = 16 << 20
)

// sideLimit returns the most bytes that a side file may have, 0 if it is none.
func sideLimit(name string) int64 {
	switch name {
	case SideTokenizer:
		return sideTokenizerBytesMax
	case SideConfig, SideGenerationConfig, SideTokenizerConfig, SideSpecialTokens,
		SideChatTemplate, SideChatTemplateJSON:
		return sideBytesMax
	}
	return 0
}

// EmbeddedKey is the metadata key under which a GGUF file carries a side file. That of the
// tokenizer is the GGUF specification's own.
func EmbeddedKey(name string) string {
	if name == SideTokenizer {
		return "tokenizer.huggingface.json"
	}
	return "moering.side." + name
}

// SideFile reads a file that lies beside the weights, by one of the Side names, as it is; one that
// a GGUF file carries in its metadata goes first. A file that is not there is an error that wraps
// ErrNotFound. The slice is the caller's own.
func (m *Model) SideFile(name string) ([]byte, error) {
	limit := sideLimit(name)
	if limit == 0 {
		return nil, usageError(m.path, "", "%s is no side file", quoted(name))
	}
	if key := EmbeddedKey(name); m.metadata.Has(key) {
		text, err := m.metadata.String(key)
		return []byte(text), err
	}
	path := filepath.Join(m.dir, name)
	data, err := readWhole(path, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{File: path, Offset: noOffset, Reason: "the file is missing",
			Kind: ErrNotFound, Cause: err}
	}
	return data, err
}

// readWhole reads a file of at most limit bytes.
func readWhole(path string, limit int64) (data []byte, err error) {
	_, _, err = readFileHeader(path, func(r io.ReaderAt, file File) (part, error) {
		if file.Size > limit {
			return part{}, formatError(path, "", noOffset, adviceInvalid,
				"%d bytes, over the limit of %d", file.Size, limit)
		}
		data = make([]byte, file.Size)
		if err := readFull(r, data, 0); err != nil {
			return part{}, readFailed(path, "", 0, "the file", err)
		}
		return part{}, nil
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// exists reports whether there is something of that name.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// openDir opens a Hugging Face directory. Like transformers it takes model.safetensors if both that
// and an index are there.
func openDir(path, dir string) (*Model, error) {
	single, index := filepath.Join(dir, safetensorsFile), filepath.Join(dir, safetensorsIndex)
	hasSingle, hasIndex := exists(single), exists(index)
	if !hasSingle && !hasIndex {
		return nil, &Error{File: dir, Offset: noOffset, Kind: ErrUnsupported, Advice: adviceOpen,
			Reason: "the directory has neither " + safetensorsFile + " nor " + safetensorsIndex}
	}
	if config := filepath.Join(dir, SideConfig); !exists(config) {
		return nil, &Error{File: config, Offset: noOffset, Kind: ErrNotFound,
			Reason: "the file is missing",
			Advice: "a model of safetensors needs the config.json that was published with it"}
	}
	if hasSingle && filepath.Base(path) != safetensorsIndex {
		return openParts(path, dir, []string{single}, nil)
	}
	text, err := readWhole(index, indexBytesMax)
	if err != nil {
		return nil, err
	}
	weights, err := parseIndex(index, text)
	if err != nil {
		return nil, err
	}
	return openParts(path, dir, weights.paths(dir), weights)
}

// openSafetensors opens the model that a .safetensors file belongs to: its directory if the file is
// model.safetensors or the index names it, else the file by itself with the side files beside it.
func openSafetensors(path string) (*Model, error) {
	dir, base := filepath.Dir(path), filepath.Base(path)
	if base == safetensorsFile {
		return openParts(path, dir, []string{path}, nil)
	}
	index := filepath.Join(dir, safetensorsIndex)
	if !exists(index) {
		return openParts(path, dir, []string{path}, nil)
	}
	text, err := readWhole(index, indexBytesMax)
	if err != nil {
		return nil, err
	}
	weights, err := parseIndex(index, text)
	if err != nil {
		return nil, err
	}
	for _, file := range weights.files {
		if file == base {
			return openParts(path, dir, weights.paths(dir), weights)
		}
	}
	return openParts(path, dir, []string{path}, nil)
}

// openParts reads the headers of some files and, if there is an index, checks them against it.
func openParts(path, dir string, files []string, index *weightIndex) (*Model, error) {
	parts := make([]part, len(files))
	for i, file := range files {
		var err error
		if parts[i], _, err = readFileHeader(file, readSafetensors); err != nil {
			return nil, shardError(err)
		}
	}
	m, err := newModel(FormatSafetensors, path, dir, parts)
	if err != nil || index == nil {
		return m, err
	}
	if err := index.check(m); err != nil {
		return nil, err
	}
	return m, nil
}

// weightIndex is what model.safetensors.index.json says: which file holds which tensor.
type weightIndex struct {
	path   string
	files  []string // sorted
	fileOf map[string]string
}

// parseIndex reads the index. A file name must be a plain name in the directory of the index.
func parseIndex(path string, text []byte) (*weightIndex, error) {
	w := &weightIndex{path: path, fileOf: map[string]string{}}
	known := map[string]bool{}
	j, err := newJSONReader(text)
	if err != nil {
		return nil, formatError(path, "", 0, adviceDamaged, "%v", err)
	}
	hasMap := false
	err = j.object(func(key string) error {
		if key != "weight_map" {
			return j.skip()
		}
		hasMap = true
		return j.object(func(tensor string) error {
			at := j.pos()
			file, err := j.str()
			if err != nil {
				return err
			}
			if !inDir(file) || filepath.Ext(file) != safetensorsExt {
				return formatError(path, tensor, at, adviceInvalid,
					"%s is not the name of a safetensors file in this directory", quoted(file))
			}
			if w.fileOf[tensor] = file; !known[file] {
				known[file] = true
				w.files = append(w.files, file)
			}
			if len(w.fileOf) > tensorsMax || len(w.files) > shardsMax {
				return fmt.Errorf("more than %d tensors or %d files", tensorsMax, shardsMax)
			}
			return nil
		})
	})
	if err == nil {
		err = j.end()
	}
	if err == nil && (!hasMap || len(w.files) == 0) {
		err = errors.New("there is no weight_map, or an empty one")
	}
	if err != nil {
		var done *Error
		if errors.As(err, &done) {
			return nil, done
		}
		return nil, formatError(path, "", j.pos(), adviceDamaged, "%v", err)
	}
	sort.Strings(w.files)
	return w, nil
}

// paths returns where the files lie.
func (w *weightIndex) paths(dir string) []string {
	paths := make([]string, len(w.files))
	for i, file := range w.files {
		paths[i] = filepath.Join(dir, file)
	}
	return paths
}

// check checks that every tensor is in the file that the index names. The files may hold more: what
// they hold is the model, and the index only the way to it.
func (w *weightIndex) check(m *Model) error {
	for _, name := range sortedKeys(w.fileOf) {
		t, err := m.Tensor(name)
		if err != nil {
			return formatError(w.path, name, noOffset, adviceShards,
				"the tensor is in the index, but not in %s", w.fileOf[name])
		}
		if found := filepath.Base(m.files[t.File].Path); found != w.fileOf[name] {
			return formatError(w.path, name, noOffset, adviceShards,
				"the index says that the tensor is in %s, and it is in %s", w.fileOf[name], found)
		}
	}
	return nil
}

// sortedKeys makes the first error of many the same in every run.
func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
