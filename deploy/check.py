"""What deploy/check asks of the files beside it; run by it. Tells everything that is wrong, not only the first."""

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

# The oldest that deploy/README.md promises, and the newest that kubernetes-validate has.
KUBERNETES = ("1.31", "1.37")
# Not in the schemas of Kubernetes itself: of the Prometheus operator.
CUSTOM = {"ServiceMonitor", "PrometheusRule"}
HERE = Path(__file__).resolve().parent
KUSTOMIZE = HERE / "kubernetes"
ALERTS = HERE / "prometheus/alerts.yaml"
RULE = KUSTOMIZE / "components/monitoring/prometheus-rule.yaml"
RULE_HEAD = """\
# Written from deploy/prometheus/alerts.yaml by `deploy/check --write`: change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: mute-service
spec:
"""
# Prometheus's own.
SYNTHETIC = {"up"}

wrong = []


def expect(good, what):
    if not good:
        wrong.append(what)
    return good


def render(command, directory):
    done = subprocess.run([*command.split(), directory], capture_output=True, text=True)
    if not expect(done.returncode == 0, f"{directory}: {done.stderr.strip()}"):
        return []
    return [thing for thing in yaml.safe_load_all(done.stdout) if thing]


def combinations():
    """Each overlay alone, with each component, and with all of them."""
    common = ["tls", "monitoring", "tracing", "backup"]
    for overlay, parts in {"single": common, "cluster": ["etcd", *common]}.items():
        for some in [[], *([part] for part in parts), parts]:
            yield overlay, some


def validate(name, thing):
    kind = thing["kind"]
    where = f"{name}: {kind} {thing['metadata']['name']}"
    expect(kind == "Namespace" or thing["metadata"].get("namespace") == "mute-service", f"{where}: not in the namespace")
    if kind in CUSTOM:
        return
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            wrong.append(f"{where}: Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
        except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError) as error:
            wrong.append(f"{where}: Kubernetes {version}: no schema: {error}; python3 -m pip install --upgrade kubernetes-validate")


def pod_spec(thing):
    spec = thing.get("spec", {})
    if thing["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return spec["template"] if "template" in spec else None


def check_pod(where, pod, claims=()):
    """What the namespace's `restricted` asks for, and what this service's own rules add to it."""
    of_pod = pod.get("securityContext", {})
    expect(of_pod.get("runAsNonRoot") is True and of_pod.get("runAsUser") == 65532, f"{where}: runs as root")
    expect(of_pod.get("fsGroup") == 65532, f"{where}: no fsGroup")
    expect(of_pod.get("seccompProfile") == {"type": "RuntimeDefault"}, f"{where}: no seccomp profile")
    expect(pod.get("automountServiceAccountToken") is False, f"{where}: has a token of the Kubernetes API")
    volumes = {volume["name"] for volume in pod.get("volumes", [])} | set(claims)
    for container in pod.get("initContainers", []) + pod["containers"]:
        at, security = f"{where}: {container['name']}", container.get("securityContext", {})
        expect(security.get("allowPrivilegeEscalation") is False, f"{at}: may gain privileges")
        expect(security.get("readOnlyRootFilesystem") is True, f"{at}: may write its root")
        expect(security.get("capabilities") == {"drop": ["ALL"]}, f"{at}: has capabilities")
        expect(not container["image"].endswith(":latest") and ":" in container["image"], f"{at}: {container['image']} is no fixed version")
        for mount in container.get("volumeMounts", []):
            expect(mount["name"] in volumes, f"{at}: no volume {mount['name']}")


def matches(selector, labels):
    return selector and all(labels.get(key) == value for key, value in selector.items())


def check_server(name, things):
    """The pods that serve: found by every selector, and stopped no sooner than they can be."""
    named = {(thing["kind"], thing["metadata"]["name"]): thing for thing in things}
    services = [thing for thing in things if thing["kind"] == "Service"]
    server = named.get(("StatefulSet", "mute-service")) or named.get(("Deployment", "mute-service"))
    if not expect(server, f"{name}: nothing serves"):
        return
    template = server["spec"]["template"]
    container, labels = template["spec"]["containers"][0], template["metadata"]["labels"]
    expect(matches(server["spec"]["selector"]["matchLabels"], labels), f"{name}: the selector does not match the pods")
    ports = {port["name"] for port in container["ports"]}
    for service in services:
        if service["metadata"]["name"].startswith("mute-service"):
            at = f"{name}: Service {service['metadata']['name']}"
            expect(matches(service["spec"]["selector"], labels), f"{at}: does not select the pods")
            expect(ports >= {port["targetPort"] for port in service["spec"]["ports"]}, f"{at}: a port that no pod has")
            public = service["metadata"]["name"] != "mute-service-admin"
            expect(not public or all(port["targetPort"] != "admin" for port in service["spec"]["ports"]), f"{at}: has the admin port")
    for thing in (thing for thing in things if thing["kind"] == "CronJob"):
        other = pod_spec(thing)["metadata"]["labels"]
        caught = [s["metadata"]["name"] for s in services if matches(s["spec"]["selector"], other)]
        expect(not caught, f"{name}: {caught} select the pods of CronJob {thing['metadata']['name']}")
    budget = named.get(("PodDisruptionBudget", "mute-service"))
    expect(matches(budget["spec"]["selector"]["matchLabels"], labels), f"{name}: the PodDisruptionBudget does not select the pods")
    expect("minAvailable" not in budget["spec"], f"{name}: the PodDisruptionBudget may block a drain")
    monitor = named.get(("ServiceMonitor", "mute-service"))
    if monitor:
        admin = named.get(("Service", "mute-service-admin"))
        expect(matches(monitor["spec"]["selector"]["matchLabels"], admin["metadata"]["labels"]), f"{name}: the ServiceMonitor does not select the Service")
        expect({e["port"] for e in monitor["spec"]["endpoints"]} <= {p["name"] for p in admin["spec"]["ports"]}, f"{name}: the ServiceMonitor has another port")
        expect(admin["metadata"]["labels"].get(monitor["spec"]["jobLabel"]) == "mute-service", f'{name}: job is not "mute-service"')
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        expect(container[probe]["httpGet"]["port"] in ports, f"{name}: {probe} asks a port that is not there")
    settings = named.get(("ConfigMap", container["envFrom"][0]["configMapRef"]["name"]))
    if expect(settings, f"{name}: the ConfigMap of the settings has another name"):
        stop = int(settings["data"].get("MUTE_STOP_DELAY_SECONDS", 0)) + int(settings["data"].get("MUTE_DRAIN_SECONDS", 10))
        grace = template["spec"]["terminationGracePeriodSeconds"]
        expect(grace >= stop + 5, f"{name}: killed {grace} s after SIGTERM, while the stop takes up to {stop} s")
    claims = server["spec"].get("volumeClaimTemplates", [])
    if claims:
        size = re.fullmatch(r"(\d+)Gi", claims[0]["spec"]["resources"]["requests"]["storage"])
        expect(size and f"* {size[1]} * 1024 ^ 3" in ALERTS.read_text(), f"{name}: MuteServiceDiskFilling is made for another size of the volume")


def check_manifests(command):
    for overlay, parts in combinations():
        name = " + ".join([overlay, *parts])
        with tempfile.TemporaryDirectory() as scratch:
            # What an operator does: take the `#` from the line of a component.
            copy = shutil.copytree(KUSTOMIZE, Path(scratch, "kubernetes")) / "overlays" / overlay
            text = (copy / "kustomization.yaml").read_text()
            for part in parts:
                text, lines = re.subn(rf"^  # (- \.\./\.\./components/{part})\b", r"  \1", text, flags=re.M)
                expect(lines == 1, f"{name}: the overlay has no line for the component")
            (copy / "kustomization.yaml").write_text(text)
            things = render(command, str(copy))
        if not things:
            continue
        for thing in things:
            validate(name, thing)
            template = pod_spec(thing)
            if template:
                claims = [claim["metadata"]["name"] for claim in thing["spec"].get("volumeClaimTemplates", [])]
                check_pod(f"{name}: {thing['kind']} {thing['metadata']['name']}", template["spec"], claims)
        check_server(name, things)
        print(f"{name}: {len(things)} objects")
    for path in KUSTOMIZE.glob("*.yaml"):
        thing = yaml.safe_load(path.read_text())
        validate(path.name, thing)
        check_pod(path.name, (pod_spec(thing) or thing)["spec"])


def check_settings(binary):
    """The program has every setting that the manifests name, those in their comments too."""
    texts = [path.read_text() for path in [HERE / "Dockerfile", *KUSTOMIZE.rglob("*.yaml")]]
    named = {name for text in texts for name in re.findall(r"(?:- |name: |ENV |^ +)(MUTE_\w+)(?:=|$)", text, flags=re.M)}
    helps = [subprocess.run([binary, *command, "--help"], capture_output=True, text=True, check=True).stdout for command in ([], ["serve"], ["backup"])]
    # What the build script takes is no setting.
    named = {name for name in named if not name.startswith("MUTE_BUILD_")}
    for name in sorted(named - set(re.findall(r"MUTE_\w+", "".join(helps)))):
        wrong.append(f"the program has no setting {name}")


def rule_text():
    lines = ALERTS.read_text().splitlines()
    body = itertools.dropwhile(lambda line: not line.startswith("groups:"), lines)
    return RULE_HEAD + "".join(f"  {line}\n" if line else "\n" for line in body)


def check_alerts():
    """The operator has the same ones, each is tested both ways, and its runbook is there."""
    expect(RULE.exists() and RULE.read_text() == rule_text(), "the PrometheusRule is not that of prometheus/alerts.yaml: run deploy/check --write")
    alerts = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    tested = set()
    for test in yaml.safe_load((HERE / "prometheus/alerts_test.yaml").read_text())["tests"]:
        tested |= {(rule["alertname"], bool(rule["exp_alerts"])) for rule in test["alert_rule_test"]}
    anchors = {
        re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
        for line in (HERE / "RUNBOOK.md").read_text().splitlines()
        if line.startswith("#")
    }
    for alert in alerts:
        name = alert["alert"]
        for fires in (True, False):
            expect((name, fires) in tested, f"{name}: no test of how it {'fires' if fires else 'stays silent'}")
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        expect(page == "deploy/RUNBOOK.md" and anchor in anchors, f"{name}: {alert['annotations']['runbook']} leads nowhere")
        expect(alert["labels"].get("severity") in ("critical", "warning"), f"{name}: no severity")
    return {alert["alert"]: alert["expr"] for alert in alerts}


def check_dashboard():
    """It can be shown: every expression parses, and no panel lies over another."""
    dashboard = json.loads((HERE / "grafana/dashboard.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    expect(len(ids) == len(set(ids)), "dashboard: two panels have one id")
    taken = {}
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        for spot in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])):
            expect(spot not in taken and spot[0] < 24, f"dashboard: {panel['title']} lies over {taken.get(spot, 'the edge')}")
            taken[spot] = panel["title"]
    for panel in panels:
        expect(panel.get("targets"), f"dashboard: {panel['title']} asks for nothing")
    expressions = {f"dashboard: {panel['title']}, {target['refId']}": target["expr"] for panel in panels for target in panel["targets"]}
    with tempfile.TemporaryDirectory() as scratch:
        # promtool knows expressions only as those of rules, and Grafana's variables not at all.
        rules = [{"record": "panel", "labels": {"of": where}, "expr": text.replace("$__rate_interval", "5m")} for where, text in expressions.items()]
        Path(scratch, "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
        done = subprocess.run(["promtool", "check", "rules", Path(scratch, "rules.yaml")], capture_output=True, text=True)
        expect(done.returncode == 0, f"dashboard: {done.stderr.strip()}")
    return expressions


def names_in(expression):
    bare = re.sub(r'"(\\.|[^"\\])*"', "", re.sub(r"\{.*?\}", "", expression, flags=re.S))
    return set(re.findall(r"\b(?:mute|grpc_server)_[a-z_]+|\bup\b", bare))


def check_metrics(exported, expressions):
    """Against a /metrics of the service. A counter with labels is not in it before it has counted something."""
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""], "info": ["_info"], "unknown": [""]}
    known = set(SYNTHETIC)
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", exported, flags=re.M):
        known |= {name.removesuffix("_total") + suffix if kind == "counter" else name + suffix for suffix in suffixes.get(kind, [""])}
    for where, expression in expressions.items():
        for name in names_in(expression) - known:
            wrong.append(f"{where}: the service has no metric {name}")


def main():
    parser = argparse.ArgumentParser(prog="deploy/check")
    parser.add_argument("--render", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="write the PrometheusRule from the alerts")
    parser.add_argument("--binary", help="a mute-service, whose settings those of the manifests have to be")
    parser.add_argument("--metrics", help="a file with the /metrics of a mute-service")
    arguments = parser.parse_args()
    # Relative to where the caller is, not to this directory.
    home = Path(os.environ.get("OLDPWD", "."))
    if arguments.write:
        RULE.write_text(rule_text())
    check_manifests(arguments.render)
    expressions = {**check_alerts(), **check_dashboard()}
    for methods in json.loads((HERE / "grpc-service-config.json").read_text())["methodConfig"]:
        expect(methods["retryPolicy"]["maxAttempts"] <= 5, "grpc-service-config.json: gRPC makes 5 attempts at most")
        is_stream = {"service": "mute.v1.MuteService", "method": "Watch"} in methods["name"]
        expect(is_stream != ("timeout" in methods), "grpc-service-config.json: every call that waits needs an end, but for streams")
    if arguments.binary:
        check_settings(home / arguments.binary)
    if arguments.metrics:
        check_metrics((home / arguments.metrics).read_text(), expressions)
    for line in dict.fromkeys(wrong):
        print(f"WRONG  {line}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


main()
