// Command labmanifests prints the manifests of a cluster for measuring the lab: workloads in one namespace, each with
// a NetworkPolicy that takes connections from its neighbour on one port.
package main

import (
	"flag"
	"fmt"
)

const workload = `---
apiVersion: apps/v1
kind: Deployment
metadata: {name: w%[1]d, namespace: big}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: w%[1]d}}
  template:
    metadata: {labels: {app: w%[1]d}}
    spec: {containers: [{name: c, image: i, ports: [{name: http, containerPort: %[3]d}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: w%[1]d, namespace: big}
spec:
  podSelector: {matchLabels: {app: w%[1]d}}
  ingress: [{from: [{podSelector: {matchLabels: {app: w%[4]d}}}], ports: [{port: http}]}]
`

func main() {
	workloads := flag.Int("workloads", 20, "how many Deployments")
	replicas := flag.Int("replicas", 10, "pods of each")
	flag.Parse()
	for i := range *workloads {
		fmt.Printf(workload, i, *replicas, 8000+i, (i+1)%*workloads)
	}
}
