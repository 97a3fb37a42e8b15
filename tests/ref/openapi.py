"""A plain reader of OpenAPI 3.1 descriptions: which operations there are, whether an answer is one."""

import json
from collections.abc import Callable, Iterator
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
# Says nothing about what is valid.
REMARKS = {"description", "default", "format"}


class Description:
    """A description; `check` takes note of what it has seen."""

    def __init__(self, text: bytes) -> None:
        self.root: dict[str, Any] = json.loads(text)
        self.seen: set[tuple[str, str, str]] = set()

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Method, path and object of each operation."""
        for path, item in self.root["paths"].items():
            for method in METHODS:
                if method in item:
                    yield method.upper(), path, item[method]

    def answers(self) -> set[tuple[str, str, str]]:
        """Method, path and status of each answer that is described by its own."""
        return {
            (method, path, status)
            for method, path, operation in self.operations()
            for status in operation["responses"]
            if status != "default"
        }

    def check(self, method: str, path: str, status: int, content_type: str | None, body: bytes) -> None:
        """An answer must be one that is described for the path, which may be one without parameters."""
        template = self._template(path)
        responses = self.root["paths"][template][method.lower()]["responses"]
        key = str(status) if str(status) in responses else "default"
        response = self.resolve(responses[key])
        self.seen.add((method, template, key))
        content = response.get("content")
        if content is None:
            assert body == b"", f"{method} {path} {status}: a body that is not described: {body!r}"
            return
        ((wanted, media),) = content.items()
        # What upstream sends has no type.
        assert wanted == (content_type or wanted).partition(";")[0], f"{method} {path}: {content_type}"
        if wanted == "application/json":
            problem = self.problem(json.loads(body), media["schema"], "answer")
            assert not problem, f"{method} {path} {status}: {problem}"

    def fits(self, value: object, name: str) -> str:
        """What is wrong with a value that should fit the schema `name`; "" if nothing is."""
        return self.problem(value, {"$ref": f"#/components/schemas/{name}"}, name)

    def _template(self, path: str) -> str:
        parts = path.partition("?")[0].split("/")
        for template in sorted(self.root["paths"], key=lambda one: "{" in one):
            wanted = template.split("/")
            if len(wanted) == len(parts) and all(
                want == part or want.startswith("{") for want, part in zip(wanted, parts, strict=True)
            ):
                return str(template)
        raise AssertionError(f"{path} is not described")

    def resolve(self, item: dict[str, Any]) -> dict[str, Any]:
        """What a reference refers to, or the object itself."""
        if "$ref" not in item:
            return item
        found: Any = self.root
        for part in item["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        assert isinstance(found, dict)
        return found

    def problem(self, value: Any, schema: dict[str, Any], where: str) -> str:
        """What of `value` does not fit a schema; "" if all does. An unknown keyword is a mistake."""
        schema = dict(self.resolve(schema))
        for keyword, wanted in schema.items():
            if keyword not in REMARKS and (found := self._broken(keyword, wanted, value, schema, where)):
                return found
        return ""

    def _broken(self, keyword: str, wanted: Any, value: Any, schema: dict[str, Any], where: str) -> str:
        is_object, is_array = isinstance(value, dict), isinstance(value, list)
        if keyword == "type":
            names = wanted if isinstance(wanted, list) else [wanted]
            right = any(isinstance(value, TYPES[name]) for name in names)
            right = right and (not isinstance(value, bool) or "boolean" in names)
            return "" if right else f"{where}: {value!r} is no {wanted}"
        if keyword == "properties":
            members = ((key, value[key]) for key in wanted if is_object and key in value)
            return next((p for k, v in members if (p := self.problem(v, wanted[k], f"{where}.{k}"))), "")
        if keyword == "required":
            return next((f"{where}: no {key}" for key in wanted if is_object and key not in value), "")
        if keyword == "additionalProperties":
            assert wanted is False
            more = set(value) - set(schema["properties"]) if is_object else set()
            return f"{where}: {sorted(more)} are not described" if more else ""
        if keyword == "items":
            items = enumerate(value if is_array else [])
            return next((p for k, v in items if (p := self.problem(v, wanted, f"{where}[{k}]"))), "")
        bounds: dict[str, Callable[[], bool]] = {
            "enum": lambda: value in wanted,
            "const": lambda: value == wanted,
            "minimum": lambda: not isinstance(value, int | float) or value >= wanted,
            "multipleOf": lambda: not isinstance(value, int) or value % wanted == 0,
            "minLength": lambda: not isinstance(value, str) or len(value) >= wanted,
        }
        return "" if bounds[keyword]() else f"{where}: {value!r} breaks {keyword} {wanted}"
