"""Holds custom resources against their CRD: crd.py CRD.yaml RESOURCES.yaml.

A field that the CRD does not name is refused, as `kubectl --validate=strict` does; CEL rules are not evaluated.
"""

import sys

import jsonschema
import yaml


def strict(schema):
    """The same schema, with unknown fields refused wherever fields are named."""
    if isinstance(schema, dict):
        schema = {key: strict(value) for key, value in schema.items()}
        named = schema.get("type") == "object" and isinstance(schema.get("properties"), dict)
        if named and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        if schema.pop("x-kubernetes-int-or-string", False):
            schema.pop("type", None)
    elif isinstance(schema, list):
        schema = [strict(item) for item in schema]
    return schema


with open(sys.argv[1], encoding="utf-8") as file:
    crd = yaml.safe_load(file)
with open(sys.argv[2], encoding="utf-8") as file:
    resources = [r for r in yaml.safe_load_all(file) if r and r["kind"] == crd["spec"]["names"]["kind"]]
group = crd["spec"]["group"]
schemas = {f"{group}/{v['name']}": v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"] if v["served"]}
findings = [] if resources else [f"no {crd['spec']['names']['kind']} in {sys.argv[2]}"]
for resource in resources:
    name = f"{resource['kind']} {resource['metadata']['name']}"
    if resource["apiVersion"] not in schemas:
        findings.append(f"{name}: {resource['apiVersion']} is not served; served: {', '.join(schemas)}")
        continue
    schema = strict(schemas[resource["apiVersion"]])
    # The API server's own, which CRDs leave open.
    schema["properties"]["metadata"] = {"type": "object"}
    for error in jsonschema.Draft7Validator(schema).iter_errors(resource):
        findings.append(f"{name}: {error.json_path}: {error.message}")
if findings:
    sys.exit("\n".join(findings))
