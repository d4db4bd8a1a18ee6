package core

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
)

// NewLogger passes records of at least the level to emit, as a line without level and time. emit
// may be called from any goroutine, one at a time.
func NewLogger(level slog.Level, emit func(level slog.Level, line string)) *slog.Logger {
	var buffer bytes.Buffer
	text := slog.NewTextHandler(&buffer, &slog.HandlerOptions{Level: slog.LevelDebug,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			isHead := a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey
			if len(groups) == 0 && isHead {
				return slog.Attr{}
			}
			return a
		}})
	return slog.New(&lines{&sync.Mutex{}, &buffer, text, level, emit})
}

// lines formats with text into buffer, and hands lines on.
type lines struct {
	mu     *sync.Mutex
	buffer *bytes.Buffer
	text   slog.Handler
	level  slog.Level
	emit   func(slog.Level, string)
}

func (l *lines) Enabled(_ context.Context, level slog.Level) bool { return level >= l.level }

func (l *lines) Handle(ctx context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buffer.Reset()
	if err := l.text.Handle(ctx, r); err != nil {
		return err
	}
	l.emit(r.Level, strings.TrimSpace(r.Message+" "+strings.TrimSpace(l.buffer.String())))
	return nil
}

func (l *lines) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &lines{l.mu, l.buffer, l.text.WithAttrs(attrs), l.level, l.emit}
}

func (l *lines) WithGroup(name string) slog.Handler {
	return &lines{l.mu, l.buffer, l.text.WithGroup(name), l.level, l.emit}
}
