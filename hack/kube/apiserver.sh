# An API server with its store and controllers, and nothing else: no nodes, no containers (sourced, not run; after lib.sh).
# It listens on loopback, and what it writes is in a folder that its user removes.
apiserver=""                          # the folder, while one runs
API_PORT=${API_PORT:-16443} ETCD_PORT=${ETCD_PORT:-12379} MANAGER_PORT=${MANAGER_PORT:-11257}

# start_apiserver FOLDER: and set KUBECONFIG to its administrator's
start_apiserver() {
  local dir=$1/apiserver bin=$LAB_HOME/bin b etcd=http://127.0.0.1:$ETCD_PORT peer=http://127.0.0.1:$((ETCD_PORT + 1))
  for b in etcd kube-apiserver kube-controller-manager kubectl; do
    [ -x "$bin/$b" ] || die "no KUBECONFIG, and no $b in $bin"
  done
  mkdir -p "$dir/logs"
  apiserver=$dir
  (umask 077 && openssl genrsa -out "$dir/sa.key" 2048 2>/dev/null && openssl rand -hex 16 >"$dir/secret")
  (umask 077 && printf '%s,admin,admin,system:masters\n' "$(cat "$dir/secret")" >"$dir/tokens")
  spawn_daemon etcd "$bin/etcd" --data-dir "$dir/etcd" --unsafe-no-fsync --log-level warn --listen-client-urls "$etcd" \
    --advertise-client-urls "$etcd" --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer"
  spawn_daemon kube-apiserver "$bin/kube-apiserver" --bind-address 127.0.0.1 --advertise-address 127.0.0.1 --secure-port "$API_PORT" \
    --cert-dir "$dir/certs" --etcd-servers "$etcd" --service-cluster-ip-range 10.96.0.0/16 --token-auth-file "$dir/tokens" \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$dir/sa.key" \
    --service-account-signing-key-file "$dir/sa.key" --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --endpoint-reconciler-type none
  (umask 077 && cat >"$dir/kubeconfig" <<YAML
apiVersion: v1
kind: Config
current-context: own
clusters: [{name: own, cluster: {server: "https://127.0.0.1:$API_PORT", insecure-skip-tls-verify: true}}]
contexts: [{name: own, context: {cluster: own, user: admin}}]
users: [{name: admin, user: {token: "$(cat "$dir/secret")"}}]
YAML
  )
  export KUBECONFIG=$dir/kubeconfig
  local end=$((SECONDS + 120))
  until kubectl --request-timeout=5s get --raw /readyz >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { tail -5 "$dir"/logs/*; die "the API server is not ready"; }
    sleep 0.3
  done
  spawn_daemon kube-controller-manager "$bin/kube-controller-manager" --kubeconfig "$KUBECONFIG" --bind-address 127.0.0.1 \
    --secure-port "$MANAGER_PORT" --cert-dir "$dir/certs" --leader-elect=false --use-service-account-credentials \
    --service-account-private-key-file "$dir/sa.key" --allocate-node-cidrs=false
  say "an API server is up"
}

# spawn_daemon NAME CMD...: start a process of its own session
spawn_daemon() {
  local name=$1; shift
  setsid nice -n 10 "$@" >"$apiserver/logs/$name.log" 2>&1 </dev/null &
  echo $! >"$apiserver/$name.pid"
}

# stop_apiserver: end what start_apiserver began
stop_apiserver() {
  local p
  [ -n "$apiserver" ] || return 0
  for p in kube-controller-manager kube-apiserver etcd; do
    if [ -e "$apiserver/$p.pid" ]; then kill -9 "$(cat "$apiserver/$p.pid")" 2>/dev/null || true; fi
  done
  wait 2>/dev/null || true
  apiserver=""
}
