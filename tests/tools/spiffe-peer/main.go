// A peer whose identity comes from the Workload API at SPIFFE_ENDPOINT_SOCKET,
// by the client that Go programs take, and that speaks mutual TLS by itself.
// The one in Python, spiffe_peer.py, has the same command line.
//
//	serve PORT   HTTPS: says hello to whoever verifies against the bundle of
//	             their own trust domain. Prints "serving" when it listens.
//	call URL ID  one GET from the server that is ID; prints the body.
//	load URL ID  GETs, in turns on a kept and on a fresh connection, until
//	             SIGTERM or SIGINT; then prints what came of them, as JSON.
//	watch        prints each update of the Workload API, as a line of JSON.
//	bundles      prints whose bundles the Workload API gives, as JSON.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/logger"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const (
	deadline      = 10 * time.Second
	firstIdentity = 30 * time.Second
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	mode := ""
	if len(arguments) > 0 {
		mode = arguments[0]
	}
	switch {
	case mode == "serve" && len(arguments) == 2:
		return serve(arguments[1])
	case mode == "call" && len(arguments) == 3:
		return call(arguments[1], arguments[2])
	case mode == "load" && len(arguments) == 3:
		return load(arguments[1], arguments[2])
	case mode == "watch" && len(arguments) == 1:
		return workloadapi.WatchX509Context(context.Background(), watcher{})
	case mode == "bundles" && len(arguments) == 1:
		return bundles()
	}
	return fmt.Errorf("usage: serve PORT | call URL ID | load URL ID | watch | bundles; not %q", arguments)
}

// identity waits for the first one. Its log says why there is none.
func identity(ctx context.Context, wait time.Duration) (*workloadapi.X509Source, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	log := workloadapi.WithLogger(logger.Writer(os.Stderr))
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(log))
	if err != nil {
		return nil, fmt.Errorf("no identity by the Workload API: %w", err)
	}
	return source, nil
}

func serve(port string) error {
	source, err := identity(context.Background(), firstIdentity)
	if err != nil {
		return err
	}
	config := tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeAny())
	config.MinVersion = tls.VersionTLS13
	// Who resumes a session isn't verified again.
	config.SessionTicketsDisabled = true
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	fmt.Println("serving")
	server := http.Server{Handler: http.HandlerFunc(hello), TLSConfig: config}
	return server.ServeTLS(listener, "", "")
}

func hello(answer http.ResponseWriter, request *http.Request) {
	peer, err := x509svid.IDFromCert(request.TLS.PeerCertificates[0])
	if err != nil {
		http.Error(answer, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintf(answer, "hello from go, you are %s\n", peer)
}

// clients returns two of the server with this ID: one keeps its connection,
// over HTTP/2 if the server has it; the other one makes a new one for each
// request, over HTTP/1.1.
func clients(source *workloadapi.X509Source, server string) (kept, fresh *http.Client, err error) {
	id, err := spiffeid.FromString(server)
	if err != nil {
		return nil, nil, err
	}
	client := func(keep bool) *http.Client {
		config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(id))
		config.MinVersion = tls.VersionTLS13
		transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: keep, DisableKeepAlives: !keep}
		// An answer that sends elsewhere is an answer.
		asIs := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		return &http.Client{Transport: transport, CheckRedirect: asIs}
	}
	return client(true), client(false), nil
}

func get(ctx context.Context, client *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", answer.StatusCode, body)
	}
	return string(body), err
}

func call(url, server string) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	source, err := identity(ctx, deadline)
	if err != nil {
		return err
	}
	client, _, err := clients(source, server)
	if err != nil {
		return err
	}
	body, err := get(ctx, client, url)
	if err == nil {
		fmt.Print(body)
	}
	return err
}

func load(url, server string) error {
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	source, err := identity(context.Background(), firstIdentity)
	if err != nil {
		return err
	}
	kept, fresh, err := clients(source, server)
	if err != nil {
		return err
	}
	var said struct {
		Calls      int    `json:"calls"`
		Failed     int    `json:"failed"`
		Rotations  int64  `json:"rotations"`
		FirstError string `json:"firstError"`
	}
	var rotations atomic.Int64
	go countRotations(stop, source, &rotations)
	for stop.Err() == nil {
		client, connection := kept, "kept"
		if said.Calls%2 == 1 {
			client, connection = fresh, "fresh"
		}
		said.Calls++
		// Not ended by a signal: each request comes to its own end.
		ctx, done := context.WithTimeout(context.Background(), deadline)
		_, err := get(ctx, client, url)
		done()
		if err != nil {
			said.Failed++
			if said.FirstError == "" {
				said.FirstError = connection + " connection: " + err.Error()
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	said.Rotations = rotations.Load()
	return json.NewEncoder(os.Stdout).Encode(said)
}

func countRotations(stop context.Context, source *workloadapi.X509Source, rotations *atomic.Int64) {
	last := ""
	for {
		if svid, err := source.GetX509SVID(); err == nil {
			serial := svid.Certificates[0].SerialNumber.Text(16)
			if last != "" && serial != last {
				rotations.Add(1)
			}
			last = serial
		}
		if source.WaitUntilUpdated(stop) != nil {
			return
		}
	}
}

type watcher struct{}

func (watcher) OnX509ContextUpdate(update *workloadapi.X509Context) {
	svid := update.DefaultSVID()
	json.NewEncoder(os.Stdout).Encode(struct {
		ID           string   `json:"id"`
		Serial       string   `json:"serial"`
		TrustDomains []string `json:"trustDomains"`
	}{svid.ID.String(), svid.Certificates[0].SerialNumber.Text(16), trustDomains(update.Bundles)})
}

func (watcher) OnX509ContextWatchError(err error) { fmt.Fprintln(os.Stderr, err) }

func bundles() error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	set, err := workloadapi.FetchX509Bundles(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string][]string{"trustDomains": trustDomains(set)})
}

func trustDomains(set *x509bundle.Set) []string {
	names := []string{}
	for _, bundle := range set.Bundles() {
		names = append(names, bundle.TrustDomain().Name())
	}
	slices.Sort(names)
	return names
}
