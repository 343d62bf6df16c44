"""What no schema sees: that the files of this folder agree with each other. consistent.py BUILT.yaml STRIMZI.yaml"""

import json
import re
import sys
import tomllib
from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parent.parent
findings = []


def expect(holds, finding):
    if not holds:
        findings.append(finding)


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|m|h)", str(text)).groups()
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def read(path):
    return (DEPLOY / path).read_text(encoding="utf-8")


def resources(path):
    with open(path, encoding="utf-8") as file:
        return [r for r in yaml.safe_load_all(file) if r]


def kubernetes(built, strimzi):
    one = {r["kind"]: r for r in built}
    worker_toml = tomllib.loads(one["ConfigMap"]["data"]["worker.toml"])
    stateful = one["StatefulSet"]["spec"]
    labels = stateful["template"]["metadata"]["labels"].items()
    pod = stateful["template"]["spec"]
    container = pod["containers"][0]

    selectors = {
        "Service": one["Service"]["spec"]["selector"],
        "StatefulSet": stateful["selector"]["matchLabels"],
        "PodDisruptionBudget": one["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": one["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    }
    for spread in pod["topologySpreadConstraints"]:
        selectors[spread["topologyKey"]] = spread["labelSelector"]["matchLabels"]
    for kind, selector in selectors.items():
        expect(selector and selector.items() <= labels, f"{kind} selects {selector}, not the worker's pods")
    monitor = one["ServiceMonitor"]["spec"]
    selector = monitor["selector"]["matchLabels"].items()
    expect(selector <= one["Service"]["metadata"]["labels"].items(), "ServiceMonitor selects another Service")
    # `up` and the rules know the job by this name, which the operator takes from the Service.
    expect(one["Service"]["metadata"]["name"] == "card-update-worker", "the job must be called card-update-worker")
    expect(stateful["serviceName"] == one["Service"]["metadata"]["name"], "StatefulSet names another Service")

    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    used = [container[p]["httpGet"]["port"] for p in ("startupProbe", "livenessProbe", "readinessProbe")]
    used += [p["targetPort"] for p in one["Service"]["spec"]["ports"]]
    used += [p["port"] for rule in one["NetworkPolicy"]["spec"]["ingress"] for p in rule["ports"]]
    expect(set(used) <= set(ports), f"ports {set(used)} of {set(ports)}")
    expect(worker_toml["http"]["listen"] == f"0.0.0.0:{ports['http']}", "http.listen is not the container's port")
    service_ports = {p["name"] for p in one["Service"]["spec"]["ports"]}
    expect({e["port"] for e in monitor["endpoints"]} <= service_ports, "ServiceMonitor names another port")

    volumes = {v["name"] for v in pod["volumes"] + [c["metadata"] for c in stateful["volumeClaimTemplates"]]}
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    expect(set(mounts) == volumes, f"volumes {volumes}, mounted {set(mounts)}")
    expect(worker_toml["worker"]["state_dir"].startswith(mounts["state"]), "worker.state_dir is not in the volume")

    # The Pod Security Standard "restricted", and a read-only root file system.
    context, own = pod["securityContext"], container["securityContext"]
    expect(context["runAsNonRoot"] and context["seccompProfile"]["type"] == "RuntimeDefault", "not restricted: pod")
    expect(own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"], "not restricted: container")
    expect(own["capabilities"] == {"drop": ["ALL"]}, "not restricted: capabilities")
    expect(f"USER {context['runAsUser']}:{context['runAsGroup']}" in read("Dockerfile"), "Dockerfile has another user")

    grace(pod["terminationGracePeriodSeconds"], worker_toml, "terminationGracePeriodSeconds")
    topics = [r["spec"] for r in strimzi if r["kind"] == "KafkaTopic"]
    count = worker_toml["topics"]["partitions"]
    expect({t["partitions"] for t in topics} == {count}, "topics have other partition counts than topics.partitions")
    loops = stateful["replicas"] * worker_toml["worker"]["threads"]
    expect(loops <= count, f"{loops} loops share {count} partitions")
    acls = next(r for r in strimzi if r["kind"] == "KafkaUser")["spec"]["authorization"]["acls"]
    granted = {a["resource"]["name"] for a in acls if a["resource"]["type"] == "topic"}
    expect(granted == {t["topicName"] for t in topics} and len(topics) == 5, "KafkaUser and KafkaTopics name other topics")


def grace(time_s, worker_toml, name):
    drain_s = seconds(worker_toml.get("worker", {}).get("drain_timeout", "20s"))
    expect(time_s >= drain_s + 10, f"{name} = {time_s} s is not 10 s longer than worker.drain_timeout")


def compose():
    project = yaml.safe_load(read("compose.yaml"))
    services = project["services"]
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            expect(other in services, f"{name} depends on {other}, which is not there")
        for port in service.get("ports", []):
            expect(port.startswith("127.0.0.1:"), f"{name} is published beyond loopback: {port}")
        expect(service["cap_drop"] == ["ALL"], f"{name} keeps capabilities")
        expect("no-new-privileges:true" in service["security_opt"], f"{name} may gain privileges")
        expect(service.get("read_only") or name == "kafka", f"{name} can write to its root file system")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            there = (DEPLOY / source).exists() if source.startswith(".") else source in project["volumes"]
            expect(there, f"{name} mounts {source}, which is not there")
    grace(seconds(services["worker"]["stop_grace_period"]), {}, "stop_grace_period")


def systemd():
    unit = read("systemd/card-update-worker.service")
    stop = re.search(r"^TimeoutStopSec=(\S+)$", unit, re.M)[1]
    worker_toml = tomllib.loads(read("systemd/worker.toml"))
    grace(seconds(stop), worker_toml, "TimeoutStopSec")
    state = re.search(r"^StateDirectory=(\S+)$", unit, re.M)[1]
    expect(worker_toml["worker"]["state_dir"] == f"/var/lib/{state}", "worker.state_dir is not the unit's StateDirectory")


def versions():
    version = tomllib.loads(read("../Cargo.toml"))["package"]["version"]
    for path in ("Dockerfile", "compose.yaml", "kubernetes/kustomization.yaml"):
        named = set(re.findall(r"(?:card-update-worker:|VERSION=|newTag: )(\d+\.\d+\.\d+)", read(path)))
        expect(named == {version}, f"{path} names version {named or 'none'}, not {version}")


def grafana():
    source = yaml.safe_load(read("grafana/provisioning/datasources/prometheus.yaml"))["datasources"][0]["uid"]
    if not (DEPLOY / "grafana/card-update-worker.json").exists():
        return
    text = read("grafana/card-update-worker.json")
    json.loads(text)
    # A variable chooses among the sources there are.
    uids = set(re.findall(r'"datasource":\s*\{[^}]*"uid":\s*"([^"]+)"', text))
    other = {uid for uid in uids if uid not in (source, "-- Grafana --") and not uid.startswith("$")}
    expect(not other, f"the dashboard asks for data sources {other}; provisioned is {source}")


kubernetes(resources(sys.argv[1]), resources(sys.argv[2]))
compose()
systemd()
versions()
grafana()
if findings:
    sys.exit("\n".join(findings))
