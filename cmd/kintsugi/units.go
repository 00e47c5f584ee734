package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// parseSize reads a number of bytes such as 4096, 4KiB, 1MiB, 2GiB or 10MB.
func parseSize(text string) (int64, error) {
	units := []struct {
		name   string
		factor float64
	}{
		{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
		{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
		{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"T", 1 << 40}, {"B", 1}, {"", 1},
	}
	number := strings.TrimSpace(text)
	for _, u := range units {
		if len(number) >= len(u.name) && strings.EqualFold(number[len(number)-len(u.name):], u.name) {
			v, err := strconv.ParseFloat(strings.TrimSpace(number[:len(number)-len(u.name)]), 64)
			if err != nil || v < 0 || v*u.factor > math.MaxInt64/2 {
				break
			}
			return int64(v * u.factor), nil
		}
	}
	return 0, fmt.Errorf("size %q: want a number of bytes such as 4096, 4KiB, 1MiB or 2GiB", text)
}

// sizeFlag is a flag that takes a size.
type sizeFlag int64

func (s *sizeFlag) String() string { return formatSize(int64(*s)) }
func (s *sizeFlag) Type() string   { return "size" }

// Set implements pflag.Value.
func (s *sizeFlag) Set(text string) error {
	v, err := parseSize(text)
	*s = sizeFlag(v)
	return err
}

// formatSize writes a number of bytes in binary units: 1.5 GiB.
func formatSize(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), ""
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		v, unit = v/1024, u
		if v < 1024 {
			break
		}
	}
	if v >= 100 || v == math.Trunc(v) {
		return fmt.Sprintf("%.0f %s", v, unit)
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// formatDuration writes a time left: 3h12m, 4m05s, 12s.
func formatDuration(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	default:
		return fmt.Sprintf("%ds", d/time.Second)
	}
}

// bar draws progress, done from 0 to 1, width characters wide.
func bar(done float64, width int) string {
	n := int(math.Round(min(1, max(0, done)) * float64(width)))
	return "[" + strings.Repeat("█", n) + strings.Repeat("░", width-n) + "]"
}
