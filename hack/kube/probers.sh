# Pods that probe all the time, for trials (sourced after lib.sh): what each of them could reach, and when, to 10 ms.
# They probe only while they are told to, so that a trial can begin with no connection there. A connection that a change cut off
# as it was made is waited for no longer than one that was never answered: nc's own limit ends with the connect.

# probers IMAGE: the pods of shop/idle, and their names and places in $idle
probers() {
  kubectl apply -f - >/dev/null <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: idle, namespace: shop}
spec:
  replicas: 4
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: idle}}}
      containers:
      - name: c
        image: "$1"
        command:
        - sh
        - -c
        - |
          touch /tmp/targets
          while :; do
            while read -r host port after; do
              read -r begin _ </proc/uptime
              [ \${begin%.*} -ge \${after:-0} ] || continue
              if timeout 2 nc -w 1 \$host \$port </dev/null >/dev/null 2>&1; then answer=yes; else answer=no; fi
              read -r end _ </proc/uptime
              echo \$begin \$end \$host:\$port \$answer
            done </tmp/targets
            sleep 0.1
          done
YAML
  kubectl -n shop rollout status deployment/idle --timeout=120s >/dev/null
  idle=$(kubectl -n shop get pods -l app=idle -o 'jsonpath={.items[*].metadata.name}')
}

# probe PODS TARGET...: from now on these pods probe these targets, "HOST PORT [UPTIME]" each, which is when the first of it
# is to come; no target ends it
probe() {
  local pod pods=$1
  shift
  for pod in $pods; do printf '%s\n' "$@" | sed '/^$/d' | kubectl -n shop exec -i "$pod" -- sh -c 'cat >/tmp/next && mv /tmp/next /tmp/targets'; done
}

# probed SINCE [TARGET]: the probes that ended since then (in milliseconds, as date has them), in order: begin, end, pod,
# target and answer
probed() {
  local pod zero
  zero=$(($(date +%s%3N) - $(awk '{printf "%.0f", $1 * 1000}' /proc/uptime)))
  for pod in $idle; do
    kubectl -n shop logs "$pod" | awk -v pod="$pod" -v zero="$zero" -v since="$1" -v target="${2:-}" '
      NF == 4 && (target == "" || $3 == target) && zero + $2 * 1000 >= since { printf "%.0f %.0f %s %s %s\n", zero + $1 * 1000, zero + $2 * 1000, pod, $3, $4 }'
  done | sort -n
}

# denied_pods: of probes on stdin, how many pods had one that was not answered
denied_pods() { awk '$5 == "no" {print $3}' | sort -u | wc -l; }
