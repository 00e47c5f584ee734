// Package acceptance tries the built binary as its users do: real clients,
// real directories, signals, full disks. Its tests are slow and need
// KINTSUGI_ACCEPTANCE=1, which scripts/test sets; each skips with the reason
// where a client or a privilege is missing.
package acceptance
