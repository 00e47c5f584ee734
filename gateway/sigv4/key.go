package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"sync"
)

// zeroBlock makes room for the key's block before a text to be signed.
const zeroBlock = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// macHex is HMAC-SHA256 in hex of the text that follows b's first 64 bytes,
// which it overwrites (RFC 2104). One shot over one buffer: no allocation.
func macHex(key *[32]byte, b []byte) (text [64]byte) {
	for i, k := range key {
		b[i] = k ^ 0x36
	}
	for i := len(key); i < 64; i++ {
		b[i] = 0x36
	}
	inner := sha256.Sum256(b)
	var outer [96]byte
	for i, k := range key {
		outer[i] = k ^ 0x5c
	}
	for i := len(key); i < 64; i++ {
		outer[i] = 0x5c
	}
	copy(outer[64:], inner[:])
	sum := sha256.Sum256(outer[:])
	hex.Encode(text[:], sum[:])
	return text
}

// deriveKey makes the signing key of a day, region and service.
func deriveKey(secret, date, region, service string) (key [32]byte) {
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	k := mac([]byte("AWS4"+secret), date)
	k = mac(k, region)
	k = mac(k, service)
	copy(key[:], mac(k, terminal))
	return key
}

// keyCacheSize is how many signing keys each of the cache's two generations
// holds; one is needed for each user and day of signing in use.
const keyCacheSize = 1024

type keyID struct{ secret, date, region, service string }

// keyCache remembers signing keys in two generations: when the young one is
// full it becomes the old one, so that what is used stays and the size is
// bounded. Only known access keys of plausible dates get here.
type keyCache struct {
	mu         sync.RWMutex
	young, old map[keyID][32]byte // guarded by mu
}

func (c *keyCache) get(secret, date, region, service string) [32]byte {
	id := keyID{secret, date, region, service}
	c.mu.RLock()
	key, ok := c.young[id]
	c.mu.RUnlock()
	if ok {
		return key
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key, ok = c.old[id]
	if !ok {
		key = deriveKey(secret, date, region, service)
	}
	// The strings are parts of a request's headers; do not keep those alive.
	id = keyID{strings.Clone(secret), strings.Clone(date), strings.Clone(region), strings.Clone(service)}
	if c.young == nil || len(c.young) >= keyCacheSize {
		c.old, c.young = c.young, make(map[keyID][32]byte)
	}
	c.young[id] = key
	return key
}
