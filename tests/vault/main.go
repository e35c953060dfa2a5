// Vault's own command as a program: the real server that the tests sign with. Built by scripts/vault, never shipped.
package main

import (
	"os"

	"github.com/hashicorp/vault/command"
)

func main() { os.Exit(command.Run(os.Args[1:])) }
