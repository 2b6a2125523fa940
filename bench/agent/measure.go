package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ringfence-project/ringfence/bench/measure"
)

const patience = 5 * time.Minute

// measure runs the agent, twice: the second finds what the first put in force.
func (b *bench) measure(ctx context.Context) error {
	for _, when := range []string{"fresh node", "on what is in force"} {
		if err := b.measureOnce(ctx, when); err != nil {
			return fmt.Errorf("%s: %w", when, err)
		}
	}
	return nil
}

func (b *bench) measureOnce(ctx context.Context, when string) (err error) {
	var said bytes.Buffer
	agent := exec.CommandContext(ctx, b.ringfence, "agent", "--node", node, "--kubeconfig", b.config, "--listen", listen, "--flows=false")
	agent.Stderr = &said
	start := time.Now()
	if err := agent.Start(); err != nil {
		return err
	}
	defer func() {
		_ = agent.Process.Kill() // it has no state to lose
		_ = agent.Wait()
		if err != nil {
			err = fmt.Errorf("%w; the agent said: %s", err, said.String())
		}
	}()
	if err := await(ctx, "/readyz", func(text string) bool { return text == "ok\n" }); err != nil {
		return err
	}
	ready := time.Since(start)
	for _, line := range strings.Split(said.String(), "\n") {
		if strings.Contains(line, "first ruleset") {
			fmt.Println(line)
		}
	}
	u, err := usage(agent.Process.Pid)
	if err != nil {
		return err
	}
	fmt.Printf("%s: ready after %v, %s\n", when, ready.Round(10*time.Millisecond), u)
	took, err := b.policiesTake(ctx)
	if err != nil {
		return err
	}
	after, err := usage(agent.Process.Pid)
	if err != nil {
		return err
	}
	fmt.Printf("%s: policy from the API's answer to enforced, %d times: p50 %.1f ms, p99 %.1f ms; then %s\n", when, len(took),
		took.Quantile(0.5), took.Quantile(0.99), after)
	return nil
}

// policiesTake creates policies one after the other and waits until each is in force; what it made it deletes.
func (b *bench) policiesTake(ctx context.Context) (measure.Series, error) {
	var took measure.Series
	for i := range b.rounds {
		name := fmt.Sprint("measured", i)
		if err := b.makePolicy(ctx, name, i*37); err != nil {
			return nil, err
		}
		created := time.Now()
		if err := await(ctx, "/policies", func(text string) bool { return lists(text, name) }); err != nil {
			return nil, err
		}
		took = append(took, float64(time.Since(created))/float64(time.Millisecond))
		if err := b.client.NetworkingV1().NetworkPolicies(namespaceName(i*37)).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return nil, err
		}
		if err := await(ctx, "/policies", func(text string) bool { return !lists(text, name) }); err != nil {
			return nil, err
		}
	}
	return took, nil
}

func lists(text, name string) bool {
	var list []struct{ Name string }
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return false
	}
	for _, p := range list {
		if p.Name == name {
			return true
		}
	}
	return false
}

// await asks the agent until it answers as it should.
func await(ctx context.Context, path string, holds func(string) bool) error {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		r, err := http.Get("http://" + listen + path)
		if err == nil {
			text, err := io.ReadAll(r.Body)
			r.Body.Close()
			if err == nil && holds(string(text)) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
	return errors.New(path + " never says what it should")
}

// usage is a process's memory and the CPU time it has taken, in words.
func usage(pid int) (string, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	memory := map[string]int{}
	for line := range strings.Lines(string(status)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.HasPrefix(name, "Vm") {
			memory[name], _ = strconv.Atoi(strings.Fields(value)[0])
		}
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return "", errors.New("the kernel does not say what a process costs")
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return fmt.Sprintf("%d MB resident (peak %d MB), %.1f s of CPU", memory["VmRSS"]/1024, memory["VmHWM"]/1024, float64(user+system)/100), nil
}
