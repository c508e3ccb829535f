// Package program builds the commands of this repository that tests and benchmarks run.
package program

import (
	"path"
	"path/filepath"
	"sync"

	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// built are functions that build a program, by the folder of its package.
var built sync.Map

// Path returns where the program of a package is, such as "cmd/kubectl-vault". This process builds it once:
// linking it takes longer than what most tests do with it.
func Path(pkg string) (string, error) {
	build, _ := built.LoadOrStore(pkg, sync.OnceValues(func() (string, error) {
		module, err := shell.Try("go list -m -f '{{.Dir}}'")
		if err != nil {
			return "", err
		}
		program := filepath.Join(module, "build", "programs", path.Base(pkg))
		_, err = shell.Try("CGO_ENABLED=0 go build -C " + module + " -o " + program + " ./" + pkg)
		return program, err
	}))
	return build.(func() (string, error))()
}
