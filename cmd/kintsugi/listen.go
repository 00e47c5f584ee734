package main

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// listen opens a flag's address. Errors say what to do about it.
func listen(flag, address string) (net.Listener, error) {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, fmt.Errorf("%s %q: want host:port, such as 127.0.0.1:9000 or [::1]:9000", flag, address)
	}
	l, err := net.Listen("tcp", address)
	if err == nil {
		return l, nil
	}
	var name *net.DNSError
	advice := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		advice = ": another process has it, or another address of this one: choose another port, or stop what listens there (ss -ltnp)"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		advice = ": this is no address of this machine (ip address); 0.0.0.0 stands for all that it has"
	case errors.Is(err, syscall.EACCES):
		advice = ": ports below 1024 take root or CAP_NET_BIND_SERVICE: choose another, such as 9000"
	case errors.As(err, &name):
		advice = ": name this machine by an address of its own, or 0.0.0.0 for all that it has"
	}
	return nil, fmt.Errorf("%s %s: %w%s", flag, address, err, advice)
}
