package store

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

// The metadata of a split GGUF file (llama.cpp, tools/gguf-split).
const (
	splitNumberKey  = "split.no"
	splitCountKey   = "split.count"
	splitTensorsKey = "split.tensors.count"
)

// splitName takes a shard's name apart: prefix-00002-of-00003.gguf.
type splitName struct {
	prefix        string
	number, count int // number counts from 1
}

// parseSplitName reports whether a file name is that of a shard. Names whose numbers make no sense,
// such as 4 of 3, are not.
func parseSplitName(base string) (splitName, bool) {
	pattern := regexp.MustCompile(`^(.*)-([0-9]{5})-of-([0-9]{5})\.gguf$`)
	parts := pattern.FindStringSubmatch(base)
	if parts == nil {
		return splitName{}, false
	}
	number, errNumber := strconv.Atoi(parts[2])
	count, errCount := strconv.Atoi(parts[3])
	if errNumber != nil || errCount != nil || number < 1 || number > count {
		return splitName{}, false
	}
	return splitName{prefix: parts[1], number: number, count: count}, true
}

// shard returns the name of the i-th shard, from 0.
func (n splitName) shard(i int) string {
	return fmt.Sprintf("%s-%05d-of-%05d.gguf", n.prefix, i+1, n.count)
}

// openGGUF opens a GGUF file, and with any shard of a split set the whole set.
func openGGUF(path string) (*Model, error) {
	first, info, err := readFileHeader(path, readGGUF)
	if err != nil {
		return nil, err
	}
	count, err := splitCount(first)
	if err != nil {
		return nil, err
	}
	dir, base := filepath.Split(path)
	name, isShard := parseSplitName(base)
	if count == 1 && (!isShard || name.count == 1) {
		return newModel(FormatGGUF, path, filepath.Clean(dir), []part{first})
	}
	if !isShard || name.count != count {
		return nil, formatError(path, "", noOffset, adviceShards,
			"the metadata says one file of %d, and the name does not say the same", count)
	}
	parts, err := readShards(dir, name, first, info)
	if err != nil {
		return nil, err
	}
	if err := checkSplit(parts); err != nil {
		return nil, err
	}
	return newModel(FormatGGUF, path, filepath.Clean(dir), parts)
}

// readShards reads the headers of a set of which one, given, is read already. A file that is there
// under two names is refused: a set that leads back to itself is never complete.
func readShards(dir string, name splitName, given part, givenInfo os.FileInfo) ([]part, error) {
	parts := make([]part, name.count)
	infos := make([]os.FileInfo, name.count)
	for i := range parts {
		if i == name.number-1 {
			parts[i], infos[i] = given, givenInfo
		} else {
			var err error
			parts[i], infos[i], err = readFileHeader(filepath.Join(dir, name.shard(i)), readGGUF)
			if err != nil {
				return nil, shardError(err)
			}
		}
		for k := range i {
			if os.SameFile(infos[i], infos[k]) {
				return nil, formatError(parts[i].file.Path, "", noOffset, adviceShards,
					"the same file as %s", parts[k].file.Path)
			}
		}
	}
	return parts, nil
}

// shardError adds what to do about a shard that is not there.
func shardError(err error) error {
	if e, ok := err.(*Error); ok && e.Kind == ErrIO && e.Advice == "" {
		e.Advice = adviceShards
	}
	return err
}

// splitCount returns the number of files that the metadata speaks of, 1 if of none.
func splitCount(p part) (int, error) {
	if !p.metadata.Has(splitCountKey) {
		return 1, nil
	}
	count, err := p.metadata.Uint(splitCountKey)
	if err != nil {
		return 0, err
	}
	if count > shardsMax {
		return 0, formatError(p.file.Path, "", noOffset, adviceInvalid, "%s is %d, over the limit of %d",
			splitCountKey, count, shardsMax)
	}
	return max(int(count), 1), nil
}

// checkSplit checks that the parts are one set: each says of itself the place that it was found at,
// all agree on the number of files and of tensors, and so many tensors are there.
func checkSplit(parts []part) error {
	total, wanted := 0, uint64(0)
	for i, p := range parts {
		count, err := splitCount(p)
		if err != nil {
			return err
		}
		number, err := p.metadata.Uint(splitNumberKey)
		if err != nil {
			return err
		}
		if count != len(parts) || number != uint64(i) {
			return formatError(p.file.Path, "", noOffset, adviceShards,
				"the metadata says file %d of %d (from 0), and it was found as %d of %d", number, count,
				i, len(parts))
		}
		tensors, err := p.metadata.Uint(splitTensorsKey)
		if err != nil {
			return err
		}
		if i == 0 {
			wanted = tensors
		}
		if tensors != wanted {
			return formatError(p.file.Path, "", noOffset, adviceShards,
				"%s is %d here and %d in the first file", splitTensorsKey, tensors, wanted)
		}
		total += len(p.tensors)
	}
	if uint64(total) != wanted {
		return formatError(parts[0].file.Path, "", noOffset, adviceShards,
			"%s is %d, and the %d files have %d", splitTensorsKey, wanted, len(parts), total)
	}
	return nil
}
