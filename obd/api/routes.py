"""Which function answers which method and path, and how what it returns or raises becomes an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import unquote

from obd.config.errors import ConfigError
from obd.config.schema import Table, build
from obd.config.strict_json import parse_object
from obd.errors import kind_of, line_of
from obd.http_server import Answer, Request, as_json, failure

T = TypeVar("T", bound=Table)

# HTTP statuses of errors by kind; 500 for the rest.
STATUS: Final = {
    "invalid": 400,
    "out-of-bounds": 400,
    "denied": 403,
    "not-found": 404,
    "exists": 409,
    "busy": 409,
    "read-only": 409,
    "limit": 413,
    "unsupported": 501,
    "timed-out": 504,
    "no-space": 507,
}


class Call(NamedTuple):
    """A request that a route answers."""

    request: Request
    values: dict[str, str]
    """What stands in the path in the place of each `{name}`, without escapes."""

    def body(self, table: type[T]) -> T:
        """The JSON object of the body, checked; no body is an empty one. Raises `ConfigError`."""
        root = parse_object(self.request.body or b"{}", "body")
        try:
            found, unknown = build(table, root)
        except ConfigError as error:
            raise ConfigError(error.what, file="body") from None
        if unknown:
            raise ConfigError(f"unknown key {unknown[0]}", file="body")
        return found


class Created(NamedTuple):
    """What a route returns that made something: its status is 201."""

    content: Any


Route = Callable[[Call], Any]


class Routes:
    """A table of routes. A path may have `{name}` in the place of a part, which fits any text."""

    def __init__(self) -> None:
        self._routes: Final[dict[tuple[str, ...], dict[str, Route]]] = {}
        self._prefixes: Final[dict[str, Callable[[Request], Answer]]] = {}

    def add(self, method: str, path: str, route: Route) -> None:
        """A route. It returns what becomes JSON, `Created`, or an `Answer`, or raises an `OSError`."""
        self._routes.setdefault(tuple(path.split("/")), {})[method] = route

    def add_prefix(self, prefix: str, route: Callable[[Request], Answer]) -> None:
        """A function that answers every path that begins so and that no route is for."""
        self._prefixes[prefix] = route

    def listed(self) -> Iterator[tuple[str, str]]:
        """Method and path of each route."""
        for path, methods in self._routes.items():
            yield from ((method, "/".join(path)) for method in methods)

    def answer(self, request: Request) -> Answer:
        """Answers a request; an `OSError` of a route becomes its status, with `error` and `message`."""
        found = self._find(request.path.split("/"))
        if found is None:
            for prefix, answer in self._prefixes.items():
                if request.path.startswith(prefix):
                    return answer(request)
            return failure("not-found", f"there is no {request.path}", 404)
        methods, values = found
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            allowed = ", ".join(sorted(methods))
            what = f"{request.path} is not for {request.method}, but for {allowed}"
            return failure("invalid", what, 405, ("Allow", allowed))
        try:
            result = route(Call(request, values))
        except OSError as error:
            return refusal(error)
        if isinstance(result, Created):
            return as_json(result.content, 201)
        return result if isinstance(result, Answer) else as_json(result)

    def _find(self, parts: list[str]) -> tuple[dict[str, Route], dict[str, str]] | None:
        if methods := self._routes.get(tuple(parts)):
            return methods, {}
        for path, methods in self._routes.items():
            if len(path) == len(parts):
                pairs = list(zip(path, parts, strict=True))
                if all(want == got or want.startswith("{") for want, got in pairs):
                    return methods, {want[1:-1]: unquote(got) for want, got in pairs if want.startswith("{")}
        return None


def refusal(error: OSError) -> Answer:
    """The answer that tells of a failure."""
    kind = kind_of(error)
    return failure(kind, line_of(error), STATUS.get(kind, 500))
