"""The simulated bucket: its objects, and a client whose requests fail as requests over a network do.

Every request takes effect at once and is visible to all. What may go wrong is its way: it may be lost, its reply may be
lost, it may be slow, or arrive long after the client has given it up and repeated it, even after its process has died.
S3's answer 409 to creations that race may come at any creation. The client repeats a request that was lost, as obstore
does by itself; an error that it raises is one after which `object_store.repeated` repeats the request.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from support.simulated.choices import CONFLICT, ERROR, LATE, LOST, PARTITION, SLOW, UNSURE

if TYPE_CHECKING:
    from support.simulated.world import World

REQUEST_SECONDS = 0.02
_TIMEOUT_SECONDS = 5.0
_SLOW_SECONDS = (5.0, 50.0, 200.0)
_LATE_SECONDS = (2.0, 30.0, 200.0, 2000.0, 1e6)  # 1e6: after all ranks have ended
_READS = frozenset({ERROR, LOST, SLOW, PARTITION})
_CHANGES = _READS | {UNSURE, LATE}
_CREATIONS = _CHANGES | {CONFLICT}
_EPOCH = 1_700_000_000

T = TypeVar("T")


class Object(NamedTuple):
    """The content of an object, and what obstore says of it."""

    content: bytes
    meta: dict[str, Any]


class Server:
    """The objects of a bucket.

    Attributes:
        folders: the objects by folder, then by name in it.
        changed: called with the path of an object that was written or removed.
        late_paths: objects that late requests were to change.
    """

    def __init__(self, world: "World") -> None:
        self.folders: dict[str, dict[str, Object]] = {}
        self.changed: Callable[[str], None] = lambda path: None
        self.late_paths: set[str] = set()
        self._world = world
        self._late: list[tuple[float, int, str, Callable[[], object]]] = []

    def find(self, path: str) -> Object | None:
        """Return the object `path`; None if it is missing."""
        folder, _, name = path.rpartition("/")
        return self.folders.get(folder, {}).get(name)

    def get(self, path: str) -> Object:
        """Return the object `path`; FileNotFoundError, as obstore words it, if it is missing."""
        if (found := self.find(path)) is None:
            raise FileNotFoundError(f"Object at location {path} not found: no such key")
        return found

    def put(self, path: str, content: bytes, creates: bool = False) -> None:
        """Write an object."""
        if creates and self.find(path):
            raise _already_exists(path)
        folder, _, name = path.rpartition("/")
        modified = datetime.fromtimestamp(_EPOCH + int(self._world.now), timezone.utc)  # S3 gives whole seconds
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        meta = {"path": path, "size": len(content), "e_tag": etag, "last_modified": modified, "version": None}
        self.folders.setdefault(folder, {})[name] = Object(content, meta)
        self.changed(path)

    def copy(self, source: str, target: str) -> None:
        """Copy an object."""
        self.put(target, self.get(source).content)

    def delete(self, path: str) -> None:
        """Remove an object, if it exists."""
        folder, _, name = path.rpartition("/")
        if self.folders.get(folder, {}).pop(name, None):
            self.changed(path)

    def names(self, folder: str) -> list[str]:
        """Return the names directly in `folder`, and those of the folders in it."""
        below = f"{folder}/" if folder else ""
        inner = (path[len(below) :] for path, objects in self.folders.items() if objects and path.startswith(below))
        return [*self.folders.get(folder, ()), *{name.partition("/")[0] for name in inner if name}]

    def send_late(self, seconds: float, path: str, effect: Callable[[], object]) -> None:
        """Let a request that changes `path` arrive in `seconds` from now."""
        self._world.log(f"    the request arrives in {seconds:.0f} s")
        self.late_paths.add(path)
        self._late.append((self._world.now + seconds, len(self._late), path, effect))
        self._late.sort(key=lambda request: request[:2])

    def deliver(self, until: float) -> None:
        """Let the late requests take effect that arrive until then."""
        while self._late and self._late[0][0] <= until:
            _, _, path, effect = self._late.pop(0)
            self._world.log(f"a late request arrives: {path}")
            try:
                effect()
            except _refusals():  # nobody waits for the answer
                self._world.log("    and is refused")


class Reply(NamedTuple):
    """What obstore returns for a `get`."""

    meta: dict[str, Any]
    content: bytes

    def bytes(self) -> bytes:
        """Return the content."""
        return self.content


class Client:
    """The methods of obstore's stores that `Bucket` calls."""

    def __init__(self, world: "World") -> None:
        assert world.server is not None
        self._world, self._server = world, world.server

    def put(self, path: str, content: Any, mode: str = "overwrite", **options: Any) -> None:
        if isinstance(content, bytes):
            assert mode == "create" or options == {"use_multipart": False}
            self._change("PUT", path, lambda: self._server.put(path, content, mode == "create"), mode == "create")
            return
        uploaded = self._world.read_local(str(content))
        self._request("PUT a part of", path, lambda: None, _READS)
        self._change("PUT", path, lambda: self._server.put(path, uploaded))

    def get(self, path: str, options: Mapping[str, Any] = {}) -> Reply:
        found = self._request("GET", path, lambda: self._server.get(path), _READS)
        if options.get("if_match", found.meta["e_tag"]) != found.meta["e_tag"]:
            from obstore.exceptions import PreconditionError

            raise PreconditionError(f"Object at location {path} has another ETag")
        start, end = options.get("range", (0, len(found.content)))
        return Reply(found.meta, found.content[start:end])

    def head(self, path: str) -> dict[str, Any]:
        return self._request("HEAD", path, lambda: self._server.get(path), _READS).meta

    def list_with_delimiter(self, folder: str | None) -> dict[str, Any]:
        return self._request("LIST", folder or "", lambda: self._listing(folder or ""), _READS)

    def copy(self, source: str, target: str) -> None:
        self._change("COPY to", target, lambda: self._server.copy(source, target))

    def delete(self, path: str) -> None:
        self._change("DELETE", path, lambda: self._server.delete(path))

    def _listing(self, folder: str) -> dict[str, Any]:
        below = f"{folder}/" if folder else ""
        objects = self._server.folders.get(folder, {})
        folders = [below + name for name in self._server.names(folder) if name not in objects]
        return {"common_prefixes": folders, "objects": [found.meta for found in objects.values()]}

    def _change(self, method: str, path: str, effect: Callable[[], None], creates: bool = False) -> None:
        from support.simulated.world import Killed

        try:
            self._request(method, path, effect, _CREATIONS if creates else _CHANGES)
        except Killed:  # perhaps after the request was sent
            if sent := self._world.choices.choose(3):
                self._server.send_late(0.0 if sent == 1 else self._draw(_LATE_SECONDS), path, effect)
            raise

    def _request(self, method: str, path: str, effect: Callable[[], T], faults: frozenset[int]) -> T:
        """Return what `effect` returns, which does the request at the server, unless a fault prevents that."""
        world = self._world
        while True:
            if world.machine.cut_off_until > world.now:
                world.pause(_TIMEOUT_SECONDS)
                raise _unreachable(path)
            event = world.step(method, path, faults, REQUEST_SECONDS)
            if event == SLOW:
                world.pause(self._draw(_SLOW_SECONDS))
            elif event == PARTITION:
                if faults >= _CHANGES and world.choices.choose(2):
                    self._server.send_late(0.0, path, effect)
                continue
            elif event == ERROR:
                raise _unreachable(path)
            elif event == CONFLICT:
                raise _already_exists(path)
            elif event == LATE:
                self._server.send_late(self._draw(_LATE_SECONDS), path, effect)
                world.pause(_TIMEOUT_SECONDS)
                continue
            self._server.deliver(world.now)
            reply = effect()
            if event == UNSURE:
                raise _unreachable(path)
            if event != LOST:
                return reply

    def _draw(self, options: tuple[float, ...]) -> float:
        return options[self._world.choices.choose(len(options))]


def _already_exists(path: str) -> Exception:
    from obstore.exceptions import AlreadyExistsError

    return AlreadyExistsError(f"Object at location {path} already exists")


def _unreachable(path: str) -> Exception:
    from obstore.exceptions import GenericError

    return GenericError(f"Generic S3 error: Error performing PUT https://simulated/{path} in 5s, after 3 retries")


def _refusals() -> tuple[type[Exception], ...]:
    from obstore.exceptions import AlreadyExistsError

    return AlreadyExistsError, FileNotFoundError
