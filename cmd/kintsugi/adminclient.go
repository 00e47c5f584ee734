package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"kintsugi/gateway/console"
	"kintsugi/gateway/sigv4"
)

// adminClient speaks to the admin API.
type adminClient struct {
	base   *url.URL
	cred   credentials
	region string
}

// newAdminClient reads the address from the flag or KINTSUGI_ADMIN_URL, and
// the credentials from the environment or the file that a first start made.
func newAdminClient(address, region, file string) (*adminClient, error) {
	if address == "" {
		address = os.Getenv("KINTSUGI_ADMIN_URL")
	}
	if address == "" {
		address = "http://127.0.0.1:9001"
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("admin URL %q: want http://host:port", address)
	}
	cred, err := adminCredentials(file)
	if err != nil {
		return nil, err
	}
	return &adminClient{base: u, cred: cred, region: region}, nil
}

func adminCredentials(file string) (credentials, error) {
	if file == "" {
		cred, err := credentialsFromEnv()
		if !errors.Is(err, errNoCredentials) {
			return cred, err
		}
		return credentials{}, fmt.Errorf("%w; or name the file that the server made at its first start: --credentials-file data/%s", err, credentialsName)
	}
	if _, err := os.Stat(file); err != nil {
		return credentials{}, fmt.Errorf("credentials file: %w", err)
	}
	cred, _, err := loadCredentials(file)
	return cred, err
}

// send makes a signed request. The caller closes the answer's body.
func (c *adminClient) send(ctx context.Context, method, path string, query url.Values) (*http.Response, error) {
	u := c.base.JoinPath(path)
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	r, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	sigv4.Sign(r, c.cred.AccessKey, c.cred.SecretKey, c.region, console.Service, time.Now(), sigv4.EmptyPayload)
	resp, err := http.DefaultClient.Do(r)
	if errors.Is(err, context.Canceled) { // a signal's, which has a text of its own
		return nil, context.Canceled
	}
	if errors.As(err, new(x509.UnknownAuthorityError)) {
		return nil, fmt.Errorf("%w\nwhere the authority is your own, name its certificate with the variable SSL_CERT_FILE", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w\nis the server running, and is this its --admin-address? Set KINTSUGI_ADMIN_URL or --admin-url", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var answer struct{ Error string }
	if json.Unmarshal(text, &answer) != nil || answer.Error == "" {
		return nil, fmt.Errorf("%s answers %q, but not as the admin API does\nis this the server's --admin-address, and not that of S3? Set KINTSUGI_ADMIN_URL or --admin-url", c.base, resp.Status)
	}
	if resp.StatusCode == http.StatusForbidden {
		return nil, fmt.Errorf("refused: %s\nthe credentials must be the server's root credentials, --region its region", answer.Error)
	}
	return nil, errors.New(answer.Error)
}

// call reads one JSON answer into v.
func (c *adminClient) call(ctx context.Context, method, path string, query url.Values, v any) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	resp, err := c.send(ctx, method, path, query)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(v)
}

// stream hands each line of the answer to line; the answer must end with one
// that line says was the last.
func (c *adminClient) stream(ctx context.Context, path string, query url.Values, line func([]byte) (last bool, err error)) error {
	resp, err := c.send(ctx, http.MethodPost, path, query)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), 4<<20)
	for lines.Scan() {
		var failed struct{ Error string }
		if json.Unmarshal(lines.Bytes(), &failed) == nil && failed.Error != "" {
			return errors.New(failed.Error)
		}
		last, err := line(lines.Bytes())
		if last || err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := lines.Err(); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the server's answer broke off: %w\n%s", err, brokeOff)
	}
	return errors.New("the server's answer broke off\n" + brokeOff)
}

const brokeOff = "what answered has probably ended; in a cluster another repairer takes over within seconds. What was begun goes on by itself; run this again to see its end"
