"""The one cattrs converter: the door that every model passes, in and out."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast

import cattrs
import msgspec

from modellab_async.codec.parsing import decode_error, loads
from modellab_async.codec.twins import AwareDatetime, Twin, twin_of
from modellab_async.errors import DecodeError
from modellab_async.models import (
    FacetKeys,
    FacetValues,
    Project,
    ProjectArtifacts,
    Run,
    RunArtifacts,
    RunStatus,
)

if TYPE_CHECKING:
    from collections.abc import Callable

RESOURCE_TYPES: Final[dict[type[Any], str]] = {
    Run: "runs",
    Project: "projects",
    RunArtifacts: "artifacts",
    ProjectArtifacts: "project_files",
    FacetKeys: "facet_keys",
    FacetValues: "facet_values",
}
"""The JSON:API ``type`` of each model that is a resource of its own."""


class Converter(cattrs.Converter):
    """A cattrs converter for this package's models; it takes the options that cattrs' own takes.

    It structures a resource (``{"id", "type", "attributes"}`` as a dict or as JSON bytes) into a
    model, and back into such a dict. An option, or a hook registered on it for any type, makes it
    take cattrs' own way for all models: it is honoured, at cattrs' speed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A status is a str too: without a hook of its own, it would be given to a user's for str.
        for kind in (str, int, float, bool, RunStatus):
            self.register_structure_hook(kind, _strictly(kind))
        self.register_structure_hook(datetime, lambda value, _: _strict(value, AwareDatetime))
        self.register_unstructure_hook(datetime, msgspec.to_builtins)  # in UTC ends in Z
        self.register_unstructure_hook(RunStatus, lambda status: status.value)
        # Factories, since copy() hands them the copy, whereas a bound method would stay bound.
        self.register_structure_hook_factory(
            RESOURCE_TYPES.__contains__, lambda _, converter: converter.structure_resource
        )
        self.register_unstructure_hook_factory(
            RESOURCE_TYPES.__contains__, lambda _, converter: converter.unstructure_resource
        )
        self.customised: bool = bool(args or kwargs)  # as also in a copy, which may have hooks

    def document(self, body: bytes, model: type[Any], *, sharing: bool) -> Any:
        """The model in a whole answer, ``{"data": resource}``; see `Call` for ``sharing``.

        Raises:
            DecodeError: with a path from the answer's root.
        """
        if not self.customised:
            return twin_of(model).document(body, sharing=sharing)
        data = loads(body)
        if not isinstance(data, dict) or "data" not in data:
            said = "Expected `object` with the field `data`"
            raise decode_error(msgspec.ValidationError(said), body)
        try:
            return self.resource(data["data"], model)
        except DecodeError as error:
            error.path = "$.data" + error.path.removeprefix("$")
            raise

    def resource(self, value: Any, model: type[Any]) -> Any:
        """The model of one resource: JSON bytes, a raw slice of them, or a dict.

        Raises:
            DecodeError: with a path from the resource's root.
        """
        if not self.customised:
            return twin_of(model).resource(value)
        if isinstance(value, bytes | msgspec.Raw):
            value = loads(bytes(value))
        try:
            return self.structure(value, model)
        except DecodeError:
            raise
        except Exception as error:  # a user's hook for the whole model may raise anything
            raise DecodeError(_said(error)) from error

    def structure_resource(self, resource: Any, model: type[Any]) -> Any:
        """The hook of every model: the fast way, unless something stands against it.

        Raises:
            DecodeError: with a path from the resource's root.
        """
        twin = twin_of(model)
        if not self.customised:
            return twin.resource(resource)
        generated = self._generated.get(model)
        if generated is None:
            generated = self.gen_structure_attrs_fromdict(model)
            self._generated[model] = generated
        flat = _flatten(resource, twin)
        try:
            return generated(flat, model)
        except Exception as error:  # a user's hook may raise anything
            said, _, path = cattrs.transform_error(
                error, path="$.attributes", format_exception=_said
            )[0].rpartition(" @ ")
            raise DecodeError(said, path=path) from error

    def unstructure_resource(self, model: Any) -> dict[str, Any]:
        """The hook back: a model as the resource that structures into an equal one."""
        cls = type(model)
        if not self.customised:
            flat = cast("dict[str, Any]", msgspec.to_builtins(model))
        else:
            key = (cls, "unstructure")
            if key not in self._generated:
                self._generated[key] = self.gen_unstructure_attrs_fromdict(cls)
            flat = self._generated[key](model)
        # JSON knows no tuples; those of the models are all on this level.
        attributes = {
            name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()
        }
        attributes.pop("id", None)
        return {"id": str(model.id), "type": RESOURCE_TYPES[cls], "attributes": attributes}

    def _hooked(self) -> None:
        self.customised = True
        self._generated: dict[Any, Callable[..., Any]] = {}

    def register_structure_hook(self, *args: Any, **kwargs: Any) -> Any:
        """As in cattrs; see the class for what it costs."""
        self._hooked()
        return super().register_structure_hook(*args, **kwargs)

    def register_structure_hook_func(self, *args: Any, **kwargs: Any) -> None:
        """As in cattrs; see the class for what it costs."""
        self._hooked()
        super().register_structure_hook_func(*args, **kwargs)

    def register_structure_hook_factory(self, *args: Any, **kwargs: Any) -> Any:
        """As in cattrs; see the class for what it costs."""
        self._hooked()
        return super().register_structure_hook_factory(*args, **kwargs)

    def register_unstructure_hook(self, *args: Any, **kwargs: Any) -> Any:
        """As in cattrs; see the class for what it costs."""
        self._hooked()
        return super().register_unstructure_hook(*args, **kwargs)

    def register_unstructure_hook_func(self, *args: Any, **kwargs: Any) -> None:
        """As in cattrs; see the class for what it costs."""
        self._hooked()
        super().register_unstructure_hook_func(*args, **kwargs)

    def register_unstructure_hook_factory(self, *args: Any, **kwargs: Any) -> Any:
        """As in cattrs; see the class for what it costs."""
        self._hooked()
        return super().register_unstructure_hook_factory(*args, **kwargs)


def make_converter() -> Converter:
    """A converter for this package's models, with no hooks but the package's own."""
    return Converter()


def _flatten(resource: Any, twin: Twin[Any]) -> dict[str, Any]:
    """A resource as one dict of fields, without the nulls that stand for a default."""
    attributes = resource.get("attributes") if isinstance(resource, dict) else None
    if not isinstance(attributes, dict):
        raise DecodeError("Expected `object`", path="$.attributes")
    flat: dict[str, Any] = {"id": twin.own_id(resource.get("id"))}
    for name, value in attributes.items():
        default = twin.defaults.get(name)
        if name == "id" or (value is None and default is not None):
            continue
        if default == () and not isinstance(value, list | tuple):
            # cattrs takes anything that can be iterated.
            raise DecodeError("Expected `array`", path=f"$.attributes.{name}")
        flat[name] = value
    return flat


def _strictly(kind: type[Any]) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        return value if type(value) is kind else _strict(value, kind)

    return structure


def _strict(value: Any, kind: Any) -> Any:
    """Stock cattrs would turn None into 'None' and "false" into True."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def _said(error: BaseException, kind: type[Any] | None = None) -> str:
    """What an error says, where cattrs would only say that a value is invalid."""
    if isinstance(error, ValueError | DecodeError) and error.args:
        return str(error)
    return cattrs.v.format_exception(error, kind)
