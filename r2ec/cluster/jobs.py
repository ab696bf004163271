"""The API server: apply, read and delete objects, and stream logs (the only kubernetes import).

Bodies and answers are plain dictionaries: responses are read raw, so that the models of one
client version, which change from version to version, play no part.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies

import kubernetes
import yaml
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from r2ec.cluster.kinds import Kind, find_kind
from r2ec.cluster.manifests import Manifest
from r2ec.cluster.refusals import RefusedError, UnreachableError
from r2ec.errors import UsageError

FIELD_MANAGER = "r2ec-cli"
_TIMEOUT_SECONDS = 30
_SILENCE_SECONDS = 60
_TRY_LATER = (429, 500, 502, 503, 504)


class Cluster:
    """A namespace of the cluster that the kubeconfig, or the pod this runs in, points at.

    Every method raises `RefusedError` with what the server said and what to do, and
    `UnreachableError` where it gave no answer.
    """

    def __init__(self, namespace: str, *, context: str | None = None) -> None:
        configuration = _load_config(context)
        self.namespace = namespace
        client = kubernetes.client.ApiClient(configuration)
        self._core = kubernetes.client.CoreV1Api(client)
        self._groups = kubernetes.client.CustomObjectsApi(client)
        # Not every version lets a call name its content type; each has headers for all calls.
        applying: Any = kubernetes.client.ApiClient(configuration)
        applying.set_default_header("Content-Type", "application/apply-patch+yaml")
        self._core_applying = kubernetes.client.CoreV1Api(applying)
        self._groups_applying = kubernetes.client.CustomObjectsApi(applying)

    def apply(self, manifest: Manifest, *, dry_run: bool = False, force: bool = False) -> bool:
        """Server-side apply of one object; returns whether it was not there before.

        With `dry_run` the server checks and admits it, and keeps nothing. `force` takes fields
        over from other managers.
        """
        kind, name = _kind_of(manifest), manifest["metadata"]["name"]
        options: dict[str, Any] = {"field_manager": FIELD_MANAGER}
        if dry_run:
            options["dry_run"] = "All"
        if force:
            options["force"] = True
        core, groups = self._core_applying, self._groups_applying
        call, place = self._method("patch", kind, core, groups)
        response = _call(f"{kind.name.lower()}/{name}", call, *place, name, manifest, **options)
        for warning in response.headers.getlist("Warning"):
            sys.stderr.write(f"warning of the server: {_warning_text(warning)}\n")
        return bool(response.status == 201)

    def find(
        self, kind_name: str, *, selector: str = "", fields: str | None = None
    ) -> list[Manifest]:
        """The objects of a kind in the namespace whose labels (and fields) fit."""
        kind = find_kind(kind_name)
        call, place = self._method("list", kind, self._core, self._groups)
        options = {} if fields is None else {"field_selector": fields}
        response = _call(f"the {kind.plural}", call, *place, label_selector=selector, **options)
        # The items of a list say not what they are: the list says it for them.
        what = {"apiVersion": f"{kind.group}/{kind.version}".lstrip("/"), "kind": kind.name}
        return [{**what, **item} for item in json.loads(response.data)["items"]]

    def get(self, kind_name: str, name: str) -> Manifest | None:
        """One object of the namespace, or None."""
        found = self.find(kind_name, fields=f"metadata.name={name}")
        return found[0] if found else None

    def delete(self, kind_name: str, name: str, *, propagation: str = "Background") -> None:
        """Delete an object, and by default what it owns after it."""
        kind = find_kind(kind_name)
        call, place = self._method("delete", kind, self._core, self._groups)
        _call(f"{kind.name.lower()}/{name}", call, *place, name, propagation_policy=propagation)

    def log_lines(self, pod: str, **options: Any) -> Iterator[str]:
        """Lines of a pod's log as they come, to the end of the log or, followed, of the container.

        `options`: `follow`, `tail_lines`, `since_seconds`, `timestamps`, `container`. Raises
        `UnreachableError` where the stream breaks off, or is silent for a minute.
        """
        read = self._core.read_namespaced_pod_log
        response = _call(
            f"the log of pod {pod}",
            read,
            pod,
            self.namespace,
            timeout=(_TIMEOUT_SECONDS, _SILENCE_SECONDS),
            **options,
        )
        rest = b""
        try:
            for chunk in response.stream(4096, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
        except HTTPError as error:
            raise UnreachableError(f"the log of pod {pod} broke off: {error}") from error
        finally:
            response.release_conn()
        if rest:
            yield rest.decode(errors="replace")

    def _method(
        self, verb: str, kind: Kind, core: Any, groups: Any
    ) -> tuple[Callable[..., Any], tuple[str, ...]]:
        """The client's method for a verb and a kind, and the arguments that say where."""
        scope = (self.namespace,) if kind.has_namespace else ()
        if kind.group:
            where = "namespaced" if kind.has_namespace else "cluster"
            method = f"{verb}_{where}_custom_object"
            return getattr(groups, method), (kind.group, kind.version, *scope, kind.plural)
        method = f"{verb}_{'namespaced_' if kind.has_namespace else ''}{kind.snake_name}"
        if verb == "list" or not scope:
            return getattr(core, method), scope
        # The core's methods take the name first, then the namespace.
        plain = getattr(core, method)
        return (lambda name, *rest, **options: plain(name, *scope, *rest, **options)), ()


def _load_config(context: str | None) -> Any:
    """The kubeconfig where there is one, else the account of the pod this runs in."""
    file = os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")
    configuration = kubernetes.client.Configuration()
    in_cluster: Callable[..., None] = kubernetes.config.load_incluster_config
    from_file: Callable[..., None] = kubernetes.config.load_kube_config
    try:
        if not os.path.exists(file.split(os.pathsep)[0]) and context is None:
            in_cluster(client_configuration=configuration)
            _set_proxy(configuration, None)
        else:
            from_file(config_file=file, context=context, client_configuration=configuration)
            _set_proxy(configuration, _proxy_of_kubeconfig(file, context))
    except ConfigException as error:
        raise UsageError(
            f"no cluster: {error} (looked at {file} and for a pod's account); "
            "set KUBECONFIG or give --context"
        ) from error
    return configuration


def _set_proxy(configuration: Any, own_proxy: str | None) -> None:
    """The cluster's own proxy goes before those of the environment, as with kubectl.

    Older clients know no `proxy-url` and read NO_PROXY without heeding it.
    """
    scheme = urlsplit(configuration.host).scheme
    configuration.proxy = own_proxy or getproxies().get(scheme)
    configuration.no_proxy = None if own_proxy else getproxies().get("no")


def _proxy_of_kubeconfig(file: str, context: str | None) -> str | None:
    """`proxy-url` of the cluster that a context (by default the current one) names."""
    entries = [
        yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        for path in file.split(os.pathsep)
        if os.path.exists(path)
    ]
    wanted = context or next(
        (e["current-context"] for e in entries if e.get("current-context")), ""
    )
    named = {
        kind: {item["name"]: item[kind] for e in entries for item in e.get(f"{kind}s") or []}
        for kind in ("context", "cluster")
    }
    cluster = named["context"].get(wanted, {}).get("cluster")
    proxy: str | None = named["cluster"].get(cluster, {}).get("proxy-url")
    return proxy


def _kind_of(manifest: Manifest) -> Kind:
    kind = find_kind(manifest["kind"])
    version = f"{kind.group}/{kind.version}".lstrip("/")
    if manifest["apiVersion"] != version:
        raise UsageError(
            f"{kind.name} {manifest['metadata']['name']}: apiVersion {manifest['apiVersion']!r}; "
            f"this knows {version}"
        )
    return kind


def _call(
    what: str,
    call: Callable[..., Any],
    *arguments: object,
    timeout: object = _TIMEOUT_SECONDS,
    **options: object,
) -> Any:
    """Call the API and return the raw answer; errors become messages for people."""
    try:
        return call(*arguments, _preload_content=False, _request_timeout=timeout, **options)
    except ApiException as error:
        status, body = error.status or 0, cast("str | bytes", error.body or "")
        text = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
        refused = RefusedError(what, status, text, str(error.reason))
        if status in _TRY_LATER:
            raise UnreachableError(str(refused)) from error
        if not status:  # the client's own: no connection, a wrong certificate
            raise UnreachableError(f"{what}: {error.reason}") from error
        raise refused from error
    except HTTPError as error:
        raise UnreachableError(f"{what}: the API server does not answer: {error}") from error


def _warning_text(header: str) -> str:
    """`299 - "text"` -> text."""
    return header.split('"', 1)[-1].rstrip('"') if '"' in header else header
