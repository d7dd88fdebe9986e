"""A strict schema for our KubeRay manifests: fields of `ray.io/v1` (KubeRay 1.5) and of core/v1 pods.

A field that isn't listed is refused, so that a misspelt one can't pass.
"""

from typing import Any

TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
QUANTITY = {"type": "string", "pattern": r"^[0-9.]+(m|[KMGT]i?)?$"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
NAME = {"type": "string", "pattern": r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"}


def strict(required: str = "", **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def many(item: Any, at_least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": at_least}


RESOURCES = {"type": "object", "additionalProperties": QUANTITY}
CONTAINER = strict(
    "name image resources",
    name=NAME,
    image={"type": "string", "pattern": r"^[^:]+:(?!latest)[^:]+$"},
    ports=many(strict("containerPort name", containerPort=COUNT, name={"type": "string", "maxLength": 15})),
    envFrom=many(strict("secretRef", secretRef=strict("name", name=NAME))),
    env=many(strict("name value", name=TEXT, value=TEXT)),
    resources=strict("requests limits", requests=RESOURCES, limits=RESOURCES),
)
POD = strict(
    "containers",
    containers=many(CONTAINER),
    nodeSelector=TEXTS,
    tolerations=many(
        strict(
            "key operator effect",
            key=TEXT,
            operator={"enum": ["Exists", "Equal"]},
            value=TEXT,
            effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
        )
    ),
    terminationGracePeriodSeconds=COUNT,
)
TEMPLATE = strict("spec", metadata=strict(labels=TEXTS, annotations=TEXTS), spec=POD)
CLUSTER = strict(
    "rayVersion headGroupSpec workerGroupSpecs",
    rayVersion=TEXT,
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=strict(
        idleTimeoutSeconds=COUNT, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}
    ),
    authOptions=strict("mode", mode={"enum": ["token", "disabled"]}, secretName=NAME),
    headGroupSpec=strict("rayStartParams template", rayStartParams=TEXTS, template=TEMPLATE),
    workerGroupSpecs=many(
        strict(
            "groupName replicas minReplicas maxReplicas rayStartParams template",
            groupName=NAME,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=TEXTS,
            template=TEMPLATE,
        )
    ),
)
JOB = strict(
    "entrypoint rayClusterSpec",
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]},
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=COUNT,
    backoffLimit=COUNT,
    rayClusterSpec=CLUSTER,
)


def resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return strict(
        "apiVersion kind metadata spec",
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=strict("name", name=NAME, namespace=NAME, labels=TEXTS),
        spec=spec,
    )


SCHEMAS = {"RayJob": resource("RayJob", JOB), "RayCluster": resource("RayCluster", CLUSTER)}
