//go:build tools

// Package tools pins the load, conformance and SPIFFE programs that the tests run. Built by scripts/test-tool, never shipped.
package tools

import (
	_ "fortio.org/fortio"
	_ "github.com/fullstorydev/grpcurl/cmd/grpcurl"
	_ "github.com/summerwind/h2spec/cmd/h2spec"
	_ "google.golang.org/grpc/interop/client"
	_ "google.golang.org/grpc/interop/server"
)
