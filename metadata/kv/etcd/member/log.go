package member

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// core writes what etcd logs to slog, from warnings on.
type core struct {
	log   *slog.Logger
	quiet func() bool // drops everything
	with  []zapcore.Field
}

func zapTo(log *slog.Logger, quiet func() bool) *zap.Logger {
	return zap.New(&core{log: log, quiet: quiet})
}

// Enabled implements zapcore.LevelEnabler.
func (c *core) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

// With implements zapcore.Core.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{c.log, c.quiet, append(append([]zapcore.Field(nil), c.with...), fields...)}
}

// Check implements zapcore.Core.
func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !c.quiet() {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	m := zapcore.NewMapObjectEncoder()
	for _, f := range append(append([]zapcore.Field(nil), c.with...), fields...) {
		f.AddTo(m)
	}
	args := make([]any, 0, 2*len(m.Fields))
	for k, v := range m.Fields {
		if k == "error" {
			k = "err"
		}
		args = append(args, k, v)
	}
	level := slog.LevelWarn
	if e.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	c.log.Log(context.Background(), level, "etcd: "+e.Message, args...)
	return nil
}

// Sync implements zapcore.Core.
func (c *core) Sync() error { return nil }
