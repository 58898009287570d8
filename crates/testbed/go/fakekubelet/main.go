// Command fakekubelet is the port-forward end of a kubelet, without the kubelet.
//
// The kubeadm control-plane provider of Cluster API reaches etcd and the apiserver of a control-plane machine through
// "port-forward to its static pod". This program serves /portForward/{namespace}/{pod} for any number of nodes and
// copies each stream to the TCP address that a routes file names:
//
//	{"kube-system/etcd-node-1:2379": "127.0.0.1:23790"}
//
// The file is read again for every stream, so that nodes come and go without a restart.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
)

const (
	idleTimeout     = 4 * time.Hour
	creationTimeout = 30 * time.Second
	dialTimeout     = 5 * time.Second
)

// routes maps "namespace/pod:port" to a TCP address.
type routes struct {
	fixed map[string]string
	file  string
}

// Set adds one route given on the command line.
func (r *routes) Set(text string) error {
	from, to, found := strings.Cut(text, "=")
	if !found {
		return fmt.Errorf("%q is not namespace/pod:port=address", text)
	}
	r.fixed[from] = to
	return nil
}

func (r *routes) String() string { return "" }

func (r *routes) find(key string) (string, error) {
	if address, found := r.fixed[key]; found {
		return address, nil
	}
	if r.file == "" {
		return "", fmt.Errorf("no route for %s", key)
	}
	text, err := os.ReadFile(r.file)
	if err != nil {
		return "", err
	}
	listed := map[string]string{}
	if err := json.Unmarshal(text, &listed); err != nil {
		return "", fmt.Errorf("%s: %w", r.file, err)
	}
	if address, found := listed[key]; found {
		return address, nil
	}
	return "", fmt.Errorf("no route for %s in %s", key, r.file)
}

// PortForward copies one stream; pod is "namespace/name".
func (r *routes) PortForward(ctx context.Context, pod string, _ string, port int32, stream io.ReadWriteCloser) error {
	address, err := r.find(fmt.Sprintf("%s:%d", pod, port))
	if err != nil {
		return err
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	go func() {
		_, _ = io.Copy(connection, stream)
		// The client has no more to say; the answer may still be on its way.
		if half, ok := connection.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
	}()
	_, err = io.Copy(stream, connection)
	return err
}

func (r *routes) serve(w http.ResponseWriter, request *http.Request) {
	pod := request.PathValue("namespace") + "/" + request.PathValue("pod")
	options, err := portforward.NewV4Options(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, request, r, pod, "", options, idleTimeout, creationTimeout, portforward.SupportedProtocols)
}

func run() error {
	table := &routes{fixed: map[string]string{}}
	listen := flag.String("listen", "127.0.0.1:0", "address and port to listen on; 0.0.0.0 serves every loopback address at once")
	cert := flag.String("cert-file", "", "serving certificate (PEM)")
	key := flag.String("key-file", "", "key of the serving certificate (PEM)")
	clientCA := flag.String("client-ca-file", "", "authority whose client certificates are demanded (PEM); none are demanded without it")
	flag.StringVar(&table.file, "routes", "", "JSON file that maps \"namespace/pod:port\" to a TCP address, read again for every stream")
	flag.Var(table, "route", "one route, namespace/pod:port=address; may be given several times and goes before the file")
	flag.Parse()
	if *cert == "" || *key == "" {
		return errors.New("--cert-file and --key-file are needed")
	}
	// Port forwarding upgrades the connection, which HTTP/2 cannot do.
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if *clientCA != "" {
		text, err := os.ReadFile(*clientCA)
		if err != nil {
			return err
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(text) {
			return fmt.Errorf("%s holds no certificate", *clientCA)
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/portForward/{namespace}/{pod}", table.serve)
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Printf("listening on %s\n", listener.Addr())
	server := &http.Server{Handler: mux, TLSConfig: config, ReadHeaderTimeout: dialTimeout}
	return server.ServeTLS(listener, *cert, *key)
}

func main() {
	if err := run(); err != nil {
		log.Fatalf("fakekubelet: %v", err)
	}
}
