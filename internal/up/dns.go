package up

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/names"
	"github.com/ringfence-project/ringfence/internal/service"
)

// probePeriod is how often the DNS pod is asked whether it is ready.
const probePeriod = time.Second

// zoneData is what `up` hands to the DNS server, in a file: all that a names.Zone is made of. Selectors and labels are
// not part of it, as no answer depends on them.
type zoneData struct {
	Table     *service.Table
	Pods      []*cluster.Endpoint
	PodRanges []netip.Prefix
}

// ServeDNS answers DNS queries on port 53 until ctx ends, from the zone in a file, which is read again whenever it is
// replaced. It is what runs in the DNS pod.
func ServeDNS(ctx context.Context, file string, log io.Writer) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := watcher.Add(filepath.Dir(file)); err != nil {
		return err
	}
	zone, err := readZone(file)
	if err != nil {
		return err
	}
	server := names.NewServer(zone, names.Upstreams{})
	address := net.JoinHostPort("", strconv.Itoa(dnsPort))
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	streams, err := net.Listen("tcp", address)
	if err != nil {
		return errors.Join(err, packets.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, packets, streams) }()
	for {
		select {
		case err := <-done:
			return err
		case e := <-watcher.Events:
			if e.Name != file || !e.Has(fsnotify.Create|fsnotify.Write) {
				continue
			}
			if zone, err := readZone(file); err != nil {
				fmt.Fprintln(log, "the last zone is kept:", err)
			} else {
				server.Swap(zone)
			}
		}
	}
}

// readZone reads the zone; before `up` has written one it has no names in it but its own.
func readZone(file string) (*names.Zone, error) {
	data := zoneData{Table: &service.Table{}}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return names.NewZone(data.Table, nil, names.Options{})
	}
	if err == nil {
		err = json.Unmarshal(text, &data)
	}
	if err != nil {
		return nil, fmt.Errorf("read zone: %w", err)
	}
	return names.NewZone(data.Table, data.Pods, names.Options{Serial: uint32(time.Now().Unix()),
		Servers: dnsAddresses[:], PodRanges: data.PodRanges})
}
