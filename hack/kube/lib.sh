# What e2e, conformance and smoke share (sourced, not run).
#
# KUBECONFIG  the cluster to test; its nodes have to be able to pull IMAGE, or have it. Without KUBECONFIG, the test
#             cluster of HARNESS is brought up for the run, with the image side-loaded, and taken down afterwards.
# HARNESS     default ../shared/kube, beside the repository; NODES, CNI_MODE, PROXY_MODE and LAB_HOME are its settings
# IMAGE       default ringfence:VERSION, built here
# DEPLOY=0    Ringfence is in the cluster already: neither put it there nor take it away
# SCTP=skip   where the kernel has no SCTP sockets: leave out what needs them. Otherwise, in the harness's cluster, a program
#             with raw sockets stands in for them (hack/tools/agnhost); in other clusters it is left out anyway
# KEEP=1      leave the cluster as it is at the end, to look at it
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
HARNESS=${HARNESS:-$root/../shared/kube}
LAB_HOME=${LAB_HOME:-$HOME/.cache/kube-lab}
export NODES=${NODES:-2} CNI_MODE=${CNI_MODE:-ptp} PROXY_MODE=${PROXY_MODE:-nftables}
GO=${GO:-go}
IMAGE=${IMAGE:-ringfence:$(sed -n 's/^appVersion: *//p' "$root/deploy/chart/ringfence/Chart.yaml")}
namespace=ringfence-system
archive=$root/bin/ringfence-image.tar
own="" # the cluster is ours

say() { printf '[%(%T)T] %s\n' -1 "$*"; }
die() { say "error: $*" >&2; exit 3; }
kubectl() { if [ -x "$LAB_HOME/bin/kubectl" ]; then "$LAB_HOME/bin/kubectl" "$@"; else command kubectl "$@"; fi; }

# built: is the harness here, and built?
built() { [ -x "$HARNESS/up.sh" ] && [ -x "$LAB_HOME/bin/kubelet" ] && [ -e "$LAB_HOME/images/agnhost.tar" ]; }

# in_node N CMD...: run CMD inside node N of the harness's cluster
in_node() { "$HARNESS/in.sh" "$@"; }

# start: have a cluster, and Ringfence in it. Call it once; what it made ends with the script.
start() {
  trap 'stop $?' EXIT
  trap 'exit 130' INT TERM
  if [ "${DEPLOY:-1}" = 1 ]; then make -s -C "$root" image IMAGE="$IMAGE"; fi
  if [ -z "${KUBECONFIG:-}" ]; then
    built || die "no KUBECONFIG, and no built harness in $HARNESS ($LAB_HOME)"
    [ "$(id -u)" = 0 ] || die "the harness needs root"
    [ ! -e "$LAB_HOME/run/pids" ] || die "a cluster is up already: to test that one, export KUBECONFIG=$LAB_HOME/run/admin.kubeconfig"
    own=1
    EXTRA_IMAGES=$archive "$HARNESS/up.sh"
    export KUBECONFIG=$LAB_HOME/run/admin.kubeconfig
    private_folders
  elif lab && [ "${DEPLOY:-1}" = 1 ]; then
    for n in $(seq "$NODES"); do in_node "$n" ctr -n k8s.io images import "$archive" >/dev/null; done
    private_folders
  fi
  if [ "${DEPLOY:-1}" = 1 ]; then deploy; fi
}

# sctp: can what needs SCTP be tested? Call it after start.
sctp() {
  if grep -q '^SCTP ' /proc/net/protocols; then return 0; fi
  if [ "${SCTP:-}" = skip ] || ! lab; then
    say "left out: SCTP, which this kernel has not"
    return 1
  fi
  local n out=$root/bin/agnhost-sctp.tar
  (cd "$root/hack/tools" && CGO_ENABLED=0 $GO build -trimpath -o "$root/bin/agnhost" ./agnhost)
  "$root/bin/agnhost" -add-to "$LAB_HOME/images/agnhost.tar" -o "$out"
  for n in $(seq "$NODES"); do in_node "$n" ctr -n k8s.io images import "$out" >/dev/null; done
  say "this kernel has no SCTP sockets: raw ones stand in for them"
}

# lab: is it the harness's cluster that is tested?
lab() { built && [ "$KUBECONFIG" = "$LAB_HOME/run/admin.kubeconfig" ]; }

# The nodes of the harness share the machine's folders. What the agent writes has to be each node's own, and nothing of
# it may stay on the machine.
private_folders() {
  local n
  mkdir -p /run/ringfence
  for n in $(seq "$NODES"); do
    in_node "$n" sh -c '
      mountpoint -q /run/ringfence || mount -t tmpfs -o mode=755 tmpfs /run/ringfence
      mountpoint -q /usr/lib/cni || {
        mkdir -p /run/ringfence/plugins && cp -a /usr/lib/cni/. /run/ringfence/plugins && mount --bind /run/ringfence/plugins /usr/lib/cni
      }'
  done
}

# deploy: the delivered manifest, with this image, and with the folders of the harness where it is that
deploy() {
  local edit=(-e "s|image: \".*\"|image: \"$IMAGE\"|")
  if lab; then edit+=(-e 's|path: /opt/cni/bin|path: /usr/lib/cni|'); fi
  sed "${edit[@]}" "$root/deploy/ringfence.yaml" | kubectl apply -f - >/dev/null
  say "waiting for the agents"
  if ! kubectl -n $namespace rollout status daemonset/ringfence --timeout=180s; then
    kubectl -n $namespace get pods -o wide || true
    kubectl -n $namespace logs daemonset/ringfence --all-containers --prefix --tail=20 || true
    die "the agents are not ready"
  fi
}

# stop CODE: end what start began
stop() {
  trap - EXIT INT TERM
  if [ -n "${KEEP:-}" ]; then
    [ -z "$own" ] || say "kept: export KUBECONFIG=$LAB_HOME/run/admin.kubeconfig; $HARNESS/down.sh ends it"
  elif [ -n "$own" ]; then
    KEEP_LOGS=1 "$HARNESS/down.sh"
    rmdir /run/ringfence 2>/dev/null || true
  fi
  exit "$1"
}

# steady: fail if an agent ended on the way
steady() {
  [ "${DEPLOY:-1}" = 1 ] || return 0
  local n
  n=$(kubectl -n $namespace get pods -o 'jsonpath={range .items[*].status.containerStatuses[*]}{.restartCount}{"\n"}{end}' | sort -n | tail -1)
  [ "${n:-0}" = 0 ] || die "an agent was restarted $n times: kubectl -n $namespace logs -p daemonset/ringfence"
}
