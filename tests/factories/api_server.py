"""An API server in this process (kmock's HTTP, our few rules of Kubernetes), or at an address.

The rules are those that a run meets: namespaces must be there, server-side apply keeps who set
which field, a Job's template stays, tokens may do more or less. A real server is a better judge:
`tests/factories/real_api_server.py`.
"""

import asyncio
import copy
import json
import re
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp.web
import attrs
import kmock
import yaml

Manifest = dict[str, Any]
ADMIN, READER = "admin-token", "reader-token"
_RUNS: Manifest = {"running": {}}
_PLACE = re.compile(
    r"/(api|apis/(?P<group>[^/]+))/v[^/]+(/namespaces/(?P<space>[^/]+)(?=/))?"
    r"/(?P<kind>[a-z]+)(/(?P<name>[^/]+))?(/(?P<below>status))?"
)


@dataclass(frozen=True, slots=True)
class ApiServer:
    """A server at an address, asked by HTTP as its administrator; a real one has no `rules`."""

    address: str
    ca_file: Path | None = None
    rules: "Rules | None" = None

    def send(
        self, method: str, path: str, body: Manifest | None = None, content_type: str = ""
    ) -> Manifest:
        """One request; raises urllib's HTTPError for a refusal."""
        import ssl

        request = urllib.request.Request(
            self.address + path,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={
                "Authorization": f"Bearer {ADMIN}",
                "Content-Type": content_type or "application/json",
            },
        )
        context = ssl.create_default_context(cafile=str(self.ca_file)) if self.ca_file else None
        with urllib.request.urlopen(request, timeout=30, context=context) as response:
            answer: Manifest = json.loads(response.read())
        return answer

    def create(self, path: str, manifest: Manifest) -> Manifest:
        """Create an object, with its status where it has one."""
        status = manifest.get("status")
        made = self.send("POST", path, {k: v for k, v in manifest.items() if k != "status"})
        if status is not None:
            place = f"{path}/{made['metadata']['name']}/status"
            self.send("PATCH", place, {"status": status}, "application/merge-patch+json")
        return made

    def items(self, path: str) -> list[Manifest]:
        """All objects of a collection."""
        found: list[Manifest] = self.send("GET", path)["items"]
        return found

    def kubeconfig(self, folder: Path, token: str = ADMIN, **cluster: str) -> Path:
        """A kubeconfig for this server and a token, in `folder`."""
        entry: Manifest = {"server": self.address, **cluster}
        if self.ca_file is not None:
            entry["certificate-authority"] = str(self.ca_file)
        file = folder / f"kubeconfig-{token[-12:]}"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": entry}],
            "users": [{"name": "test", "user": {"token": token}}],
        }
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        return file


class RefusalError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, reason: str, message: str, *causes: Manifest) -> None:
        super().__init__(message)
        self.status, self.reason, self.causes = status, reason, list(causes)


@dataclass(slots=True)
class PodLog:
    """What a pod logs: one list of (time, line) for each connection, the last one to the end.

    A connection that is not the last breaks off after its lines.
    """

    connections: list[list[tuple[str, str]]]
    asked: list[dict[str, str]] = field(default_factory=list)
    breaks_always: bool = False


@attrs.define(kw_only=True)
class Rules(kmock.RawHandler):
    """Objects by (group, plural, namespace, name); `trouble` answers the next requests with it."""

    objects: dict[tuple[str, str, str, str], Manifest] = attrs.field(factory=dict, init=False)
    owners: dict[tuple[str, ...], str] = attrs.field(factory=dict, init=False)
    logs: dict[str, PodLog] = attrs.field(factory=dict, init=False)
    seen: list[kmock.Request] = attrs.field(factory=list, init=False)
    trouble: list[int] = attrs.field(factory=list, init=False)

    async def _handle(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        self.seen.append(request)
        try:
            if self.trouble:
                raise RefusalError(self.trouble.pop(0), "Trouble", "try again later")
            if request.url.path.endswith("/log"):
                return await self._log(request)
            status, body = self._answer(request)
        except RefusalError as refusal:
            status, body = (
                refusal.status,
                {
                    "kind": "Status",
                    "status": "Failure",
                    "reason": refusal.reason,
                    "message": str(refusal),
                    "details": {"causes": refusal.causes},
                },
            )
        return aiohttp.web.json_response(body, status=status)

    def _answer(self, request: kmock.Request) -> tuple[int, Manifest]:
        method = request.method.value
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (ADMIN, READER):
            raise RefusalError(401, "Unauthorized", "Unauthorized")
        place = _PLACE.fullmatch(request.url.path)
        if place is None:
            raise RefusalError(404, "NotFound", "the server could not find the requested resource")
        group, space, plural, name = (
            place[key] or "" for key in ("group", "space", "kind", "name")
        )
        subresource = place["below"]
        verb = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}[method]
        if token == READER and verb != "get":
            raise RefusalError(
                403,
                "Forbidden",
                f'{plural}.{group} "{name}" is forbidden: User "reader" cannot {verb} resource '
                f'"{plural}" in API group "{group}" in the namespace "{space}"',
            )
        key = (group, plural, space, name)
        if verb == "get" and not name:
            found = self._list(group, plural, space, request.params)
            bare = [
                {k: v for k, v in it.items() if k not in ("kind", "apiVersion")} for it in found
            ]
            return 200, {"kind": "List", "items": bare}  # as a server's lists are
        if verb == "delete" and not name:
            for item in self._list(group, plural, space, request.params):
                self._delete((group, plural, space, item["metadata"]["name"]))
            return 200, {"kind": "Status", "status": "Success"}
        is_known = key in self.objects
        if not is_known and (verb in ("get", "delete") or subresource == "status"):
            raise RefusalError(404, "NotFound", f'{plural} "{name}" not found')
        if verb == "delete":
            self._delete(key)
            return 200, {"kind": "Status", "status": "Success"}
        if subresource == "status":
            self.objects[key]["status"] = request.data["status"]
        if verb == "get" or subresource:
            return 200, self.objects[key]
        if space and ("", "namespaces", "", space) not in self.objects:
            raise RefusalError(404, "NotFound", f'namespaces "{space}" not found')
        if verb == "create":
            name = request.data["metadata"]["name"]
            key = (group, plural, space, name)
            if key in self.objects:
                raise RefusalError(409, "AlreadyExists", f'{plural} "{name}" already exists')
            self.objects[key] = _made(request.data)
            return 201, self.objects[key]
        return self._apply(key, json.loads(request.body), request.params)

    def _list(self, group: str, plural: str, space: str, params: dict[str, str]) -> list[Manifest]:
        wanted = dict(
            pair.split("=") for pair in params.get("labelSelector", "").split(",") if pair
        )
        fields = dict(
            pair.split("=") for pair in params.get("fieldSelector", "").split(",") if pair
        )
        return [
            item
            for (its_group, its_plural, its_space, _), item in self.objects.items()
            if (its_group, its_plural, its_space) == (group, plural, space)
            and wanted.items() <= item["metadata"].get("labels", {}).items()
            and all(_at(item, path) == value for path, value in fields.items())
        ]

    def _apply(
        self, key: tuple[str, str, str, str], patch: Manifest, params: dict[str, str]
    ) -> tuple[int, Manifest]:
        manager, is_dry = params.get("fieldManager"), params.get("dryRun") == "All"
        if not manager:
            raise RefusalError(
                400, "BadRequest", "PatchOptions.meta.k8s.io: fieldManager is required"
            )
        before = self.objects.get(key)
        after = _merged(before, patch) if before else _made(patch)
        leaves = dict(_leaves(patch))
        if before is not None:
            held = dict(_leaves(before))
            conflicts = [
                {
                    "reason": "FieldManagerConflict",
                    "message": f'conflict with "{self.owners[*key, *path]}" using batch/v1',
                    "field": "." + ".".join(path),
                }
                for path, value in leaves.items()
                if self.owners.get((*key, *path), manager) != manager and held.get(path) != value
            ]
            if conflicts and not _is_true(params, "force"):
                raise RefusalError(409, "Conflict", "Apply failed with conflicts", *conflicts)
            if key[1] == "jobs" and before["spec"]["template"] != after["spec"]["template"]:
                value = f"core.PodTemplateSpec{{ObjectMeta:{'x' * 3000}}}"
                cause = {
                    "reason": "FieldValueInvalid",
                    "message": f"Invalid value: {value}: field is immutable",
                    "field": "spec.template",
                }
                text = f'Job.batch "{key[3]}" is invalid: spec.template: {cause["message"]}'
                raise RefusalError(422, "Invalid", text, cause)
        nameless = [
            path for path, value in _leaves_of_lists(after) if path[-1] == "name" and not value
        ]
        if nameless:
            cause = {"field": ".".join(nameless[0]), "message": "Required value"}
            raise RefusalError(422, "Invalid", "Required value", cause)
        if not is_dry:
            self.objects[key] = after
            self.owners |= {(*key, *path): manager for path in leaves}
        return (200 if before else 201), after

    def own(self, key: tuple[str, str, str, str], manager: str, *path: str) -> None:
        """Another manager has set a field."""
        self.owners[*key, *path] = manager

    def _end_container(self, pod: Manifest) -> None:
        """The container at work has written its last line: the next one, or the pod's end."""
        status = pod["status"]
        going = [it for it in status.get("initContainerStatuses", []) if "running" in it["state"]]
        if not going:
            status["phase"] = "Succeeded"
            return
        going[0]["state"] = {"terminated": {"exitCode": 0}}
        status |= {"phase": "Running", "containerStatuses": [{"name": "r2ec", "state": _RUNS}]}

    def _delete(self, key: tuple[str, str, str, str]) -> None:
        del self.objects[key]
        self.owners = {path: who for path, who in self.owners.items() if path[:4] != key}
        for other, item in list(self.objects.items()):
            owners = item["metadata"].get("ownerReferences", [])
            if any(owner["name"] == key[3] for owner in owners):
                del self.objects[other]

    async def _log(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        *_, space, _, name, _ = request.url.path.split("/")
        log = self.logs.get(f"{name}/{request.params.get('container')}") or self.logs[name]
        log.asked.append(dict(request.params))
        is_broken = len(log.connections) > 1 and ("follow" in request.params or log.breaks_always)
        lines = log.connections.pop(0) if is_broken else log.connections[0]
        if "tailLines" in request.params:
            lines = lines[-int(request.params["tailLines"]) :]
        stamped = _is_true(request.params, "timestamps")
        text = "".join(f"{time} {line}\n" if stamped else f"{line}\n" for time, line in lines)
        response = aiohttp.web.StreamResponse()
        raw = request._raw_request
        assert raw is not None
        await response.prepare(raw)
        await response.write(text.encode())
        if is_broken:  # cut in the middle of a line
            await response.write(b"2024-05-31T00:0")
            assert raw.transport is not None
            raw.transport.close()
        elif "follow" in request.params:
            self._end_container(self.objects["", "pods", space, name])
        return response


def _is_true(params: dict[str, str], name: str) -> bool:
    """As the server's language reads it; older clients write True."""
    return params.get(name) in ("1", "t", "T", "true", "True", "TRUE")


def _made(manifest: Manifest) -> Manifest:
    made = copy.deepcopy(manifest)
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    made["metadata"].setdefault("creationTimestamp", now)
    made["metadata"].setdefault("uid", str(uuid.uuid4()))
    if made["kind"] == "Job":  # as a server fills in what was left out
        made["spec"] = {"parallelism": 1, "suspend": False, **made["spec"]}
    return made


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
    return copy.deepcopy(new)


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    else:
        yield path, value


def _leaves_of_lists(
    value: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves_of_lists(item, (*path, key))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves_of_lists(item, path)
    else:
        yield path, value


def _at(item: Manifest, path: str) -> Any:
    value: Any = item
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


@contextmanager
def mock_server() -> Iterator[ApiServer]:
    """A server in a thread of this process, with the namespace r2ec in it."""
    rules, started, address = Rules(), threading.Event(), []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with rules, kmock.Server(rules) as server:
            address.append(str(server.url).rstrip("/"))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(30)
    try:
        yield ApiServer(address[0], rules=rules)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
