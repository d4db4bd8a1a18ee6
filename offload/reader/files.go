package reader

import (
	"errors"
	"fmt"
)

// files is the list of files that a reader was opened with.
type files []file

// openFiles opens all or none, and logs once per file why it is not read directly.
func openFiles(names []string, o Options) (files, error) {
	if len(names) == 0 {
		return nil, usageError("no files")
	}
	all := make(files, 0, len(names))
	for _, name := range names {
		f, err := openFile(name, o.Buffered, o.PageCache)
		if err != nil {
			return nil, errors.Join(err, all.close())
		}
		if o.deviceOf != nil {
			f.device = o.deviceOf(name, f.device)
		}
		all = append(all, f)
		if !f.direct && !o.Buffered {
			o.Logger.Warn("reads go through the page cache", "file", name, "reason", f.reason)
		}
	}
	return all, nil
}

// Fallback is a file that is read through the page cache although direct reads were wished for.
type Fallback struct {
	File   string
	Reason string
}

// fallbacks lists the files that are not read directly.
func (fs files) fallbacks() []Fallback {
	var list []Fallback
	for i := range fs {
		if !fs[i].direct {
			list = append(list, Fallback{File: fs[i].name, Reason: fs[i].reason})
		}
	}
	return list
}

// names lists the paths.
func (fs files) names() []string {
	names := make([]string, len(fs))
	for i := range fs {
		names[i] = fs[i].name
	}
	return names
}

// align is the strictest alignment of all.
func (fs files) align() int {
	align := 1
	for i := range fs {
		align = max(align, fs[i].align)
	}
	return align
}

// count adds the kinds of files to the counts.
func (fs files) count(s Stats) Stats {
	s.BufferedFiles = len(fs.fallbacks())
	s.DirectFiles = len(fs) - s.BufferedFiles
	return s
}

// info describes the reads for the user.
func (fs files) info(kind string, q *queue) string {
	how := fmt.Sprintf("direct reads of %d files", len(fs))
	if list := fs.fallbacks(); len(list) > 0 {
		how = fmt.Sprintf("direct reads of %d files, %d through the page cache (%s: %s)",
			len(fs)-len(list), len(list), list[0].File, list[0].Reason)
	}
	return fmt.Sprintf("%s, %s, %s, aligned to %d bytes", kind, q.describe(), how, fs.align())
}

// joinClose closes the files after an error.
func joinClose(err error, fs files) error { return errors.Join(err, fs.close()) }

// close closes all files.
func (fs files) close() error {
	var errs []error
	for i := range fs {
		if err := fs[i].close(); err != nil {
			errs = append(errs, fmt.Errorf("reader: close %s: %w", fs[i].name, err))
		}
	}
	return errors.Join(errs...)
}
