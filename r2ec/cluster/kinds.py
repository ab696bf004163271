"""Where the API server keeps the kinds of objects that a run is made of."""

from typing import NamedTuple

from r2ec.errors import UsageError


class Kind(NamedTuple):
    """A kind: its API group ("" is the core), version, plural, and whether a namespace holds it."""

    name: str
    group: str
    version: str
    plural: str
    has_namespace: bool = True

    @property
    def snake_name(self) -> str:
        """`PersistentVolumeClaim` -> `persistent_volume_claim`, as methods of clients are named."""
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in self.name).lstrip("_")


KINDS = {
    kind.name: kind
    for kind in (
        Kind("Namespace", "", "v1", "namespaces", False),
        Kind("ServiceAccount", "", "v1", "serviceaccounts"),
        Kind("PersistentVolumeClaim", "", "v1", "persistentvolumeclaims"),
        Kind("ConfigMap", "", "v1", "configmaps"),
        Kind("Service", "", "v1", "services"),
        Kind("Pod", "", "v1", "pods"),
        Kind("Event", "", "v1", "events"),
        Kind("Job", "batch", "v1", "jobs"),
        Kind("CronJob", "batch", "v1", "cronjobs"),
        Kind("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies"),
        Kind("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets"),
        Kind("Role", "rbac.authorization.k8s.io", "v1", "roles"),
        Kind("RoleBinding", "rbac.authorization.k8s.io", "v1", "rolebindings"),
        Kind("PriorityClass", "scheduling.k8s.io", "v1", "priorityclasses", False),
        Kind("JobSet", "jobset.x-k8s.io", "v1alpha2", "jobsets"),
        Kind("TrainJob", "trainer.kubeflow.org", "v1alpha1", "trainjobs"),
        Kind("SparkApplication", "sparkoperator.k8s.io", "v1beta2", "sparkapplications"),
    )
}


def find_kind(name: str) -> Kind:
    """The kind of this name. Raises `UsageError` for one that no run has."""
    if name not in KINDS:
        raise UsageError(f"objects of kind {name!r} are not known; these are: {', '.join(KINDS)}")
    return KINDS[name]
