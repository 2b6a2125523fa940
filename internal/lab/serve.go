//go:build linux

package lab

import (
	"fmt"

	"github.com/ringfence-project/ringfence/internal/echo"
)

// listen opens the echo servers of all hosts. Sockets are opened on threads inside the hosts' namespaces and stay
// there; everything else happens outside.
func listen(servers *echo.Servers, hosts []*station) error {
	for _, h := range hosts {
		err := h.ns.Do(func() error {
			for _, a := range h.addresses {
				for _, p := range h.listen {
					if err := servers.Listen(a, p); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("listen in %s: %w", h.name(), err)
		}
	}
	return nil
}
