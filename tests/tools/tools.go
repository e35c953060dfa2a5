//go:build tools

// Package tools pins the load and conformance programs that the tests run. Built by scripts/test-tool, never shipped.
package tools

import (
	_ "fortio.org/fortio"
	_ "github.com/summerwind/h2spec/cmd/h2spec"
	_ "google.golang.org/grpc/interop/client"
	_ "google.golang.org/grpc/interop/server"
)
