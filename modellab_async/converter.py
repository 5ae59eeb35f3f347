"""The cattrs converter: JSON to models, and models to JSON.

`configure_converter` registers a structure and an unstructure hook factory for this package's
models on any `cattrs.Converter`. Resources have the API's form: ``{"id", "type", "attributes"}``.

As in ``cattrs.preconf``, JSON is left to msgspec, which is many times faster, if no type within a
model has a hook of the user's. Otherwise the models go through the functions that cattrs
generates, and these call the user's hooks.
"""

from __future__ import annotations

import functools
import json
import math
import traceback
import typing
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeAlias, TypeVar, cast

import attrs
import cattrs
import msgspec
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from modellab_async.errors import ConfigError, DecodeError
from modellab_async.models import (
    FacetKeys,
    FacetValues,
    MetricStatRange,
    MetricSummary,
    NumericRange,
    Param,
    Project,
    ProjectArtifacts,
    ProjectFile,
    Run,
    RunArtifacts,
    RunFile,
    RunStatus,
    Tag,
)
from modellab_async.parsing import (
    Resource,
    decode_resource,
    int_id,
    loads,
    parse,
    split_path,
    text_id,
)

M = TypeVar("M")

RESOURCE_TYPES: Final[dict[type[Any], str]] = {
    Run: "runs",
    Project: "projects",
    RunArtifacts: "artifacts",
    ProjectArtifacts: "project_files",
    FacetKeys: "facet_keys",
    FacetValues: "facet_values",
}
"""The JSON:API ``type`` of each model that is a resource."""

_RESOURCES: Final = tuple(RESOURCE_TYPES)
_PARTS: Final = (Param, Tag, MetricSummary, RunFile, ProjectFile, NumericRange, MetricStatRange)

_AwareDatetime: Any = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with its zone, as the API promises; a naive one could not be compared with others."""

Converter: TypeAlias = cattrs.Converter
"""`cattrs.Converter`, as the type of what `make_converter` returns."""


# Converters and their hooks


def make_converter() -> cattrs.Converter:
    """A new `cattrs.Converter` that structures and unstructures this package's models."""
    converter = cattrs.Converter()
    configure_converter(converter)
    return converter


def configure_converter(converter: cattrs.Converter) -> None:
    """Teach a converter of your own this package's models; calling it again changes nothing.

    It then structures a resource from a dict, or from JSON as ``bytes``. Hooks that you register
    for any type within a model, earlier or later, are honoured, and so are ``forbid_extra_keys``
    and ``omit_if_default``. How it treats other types does not change.
    """
    for models, structure, unstructure in (
        (_RESOURCES, ResourceHook, _unstructure_resource_factory),
        (_PARTS, _structure_part_factory, _unstructure_part_factory),
    ):
        is_model = functools.partial(_is_subclass, models)
        converter.register_structure_hook_factory(is_model, structure)
        converter.register_unstructure_hook_factory(is_model, unstructure)


def checked_converter(converter: object) -> cattrs.Converter:
    """A converter of a user's, if `configure_converter` has been called for it.

    Raises:
        ConfigError: otherwise.
    """
    if isinstance(converter, cattrs.Converter):
        try:
            hooks = [converter.get_structure_hook(model) for model in _RESOURCES]
        except cattrs.StructureHandlerNotFoundError:  # of datetime, which cattrs does not know
            hooks = []
        if any(isinstance(hook, ResourceHook) for hook in hooks):
            return converter
    raise ConfigError(
        "converter must be one that make_converter() returns, or that configure_converter() was"
        f" called for, not a {type(converter).__module__}.{type(converter).__qualname__}"
    )


def _is_subclass(models: tuple[type[Any], ...], kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, models)


def _structure_part_factory(part: type[Any], converter: cattrs.Converter) -> Callable[..., Any]:
    if _has_user_hook_within(part, converter):
        return _generate_structure(part, converter)
    return _convert_strictly


def _unstructure_part_factory(part: type[Any], converter: cattrs.Converter) -> Callable[[Any], Any]:
    # cattrs would leave times as they are; to_builtins writes UTC as Z.
    overrides: dict[str, Any] = {
        name: override(unstruct_hook=msgspec.to_builtins)
        for name, hint in typing.get_type_hints(part).items()
        if hint in (datetime, datetime | None, RunStatus)
        and not _has_user_hook(hint, converter.get_unstructure_hook)
    }
    return make_dict_unstructure_fn(
        part, converter, _cattrs_omit_if_default=converter.omit_if_default, **overrides
    )


def _unstructure_resource_factory(
    model: type[Any], converter: cattrs.Converter
) -> Callable[[Any], dict[str, Any]]:
    to_fields = _unstructure_part_factory(model, converter)
    resource_type = _resource_type(model)

    def unstructure_resource(resource: Any) -> dict[str, Any]:
        # JSON has no tuples; a model's own are all on this level.
        attributes = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in to_fields(resource).items()
            if name != "id"
        }
        return {"id": str(resource.id), "type": resource_type, "attributes": attributes}

    return unstructure_resource


def _generate_structure(model: type[M], converter: cattrs.Converter) -> Callable[[Any, Any], M]:
    """The function that cattrs generates; fields without a user's hook are converted strictly."""
    overrides: dict[str, Any] = {
        name: override(struct_hook=_convert_strictly)
        for name, hint in typing.get_type_hints(model).items()
        if hint in _field_types() and not _has_user_hook(hint, converter.get_structure_hook)
    }
    return make_dict_structure_fn(model, converter, **overrides)


def _convert_strictly(value: Any, kind: Any) -> Any:
    """The structure hook of every type within a model that has no hook of the user's.

    cattrs' own would turn None into ``"None"`` and ``"false"`` into True.
    """
    if type(value) is kind:
        return value
    try:
        return msgspec.convert(value, _aware(kind))
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def _has_user_hook_within(model: type[Any], converter: cattrs.Converter) -> bool:
    """Whether a user's hook or option concerns a model, or the model is a user's subclass."""
    if converter.forbid_extra_keys or model not in (*_RESOURCES, *_PARTS):
        return True
    hints = typing.get_type_hints(model).values()
    return any(_has_user_hook(hint, converter.get_structure_hook) for hint in hints)


def _has_user_hook(kind: Any, get_hook: Callable[[Any], Any]) -> bool:
    """Whether the hook of a type, or of one within it, is neither cattrs' nor this module's."""
    try:
        hook = get_hook(kind)
    except cattrs.StructureHandlerNotFoundError:
        return False
    if _is_subclass(_PARTS, kind):
        return hook is not _convert_strictly
    if kind is RunStatus and hook is get_hook(str):
        return False  # cattrs calls a hook for str for enums of text, too
    if not (getattr(hook, "__module__", None) or "").startswith("cattrs."):
        return True
    within = [inner for inner in typing.get_args(kind) if inner not in (..., type(None))]
    return any(_has_user_hook(inner, get_hook) for inner in within)


@functools.cache
def _field_types() -> set[Any]:
    hints = [typing.get_type_hints(model).values() for model in (*_RESOURCES, *_PARTS)]
    return {hint for own in hints for hint in own}


class ResourceHook(Generic[M]):
    """The structure hook of a model that is a resource.

    Attributes:
        type: the JSON:API ``type`` of the resources.
    """

    def __init__(self, model: type[M], converter: cattrs.Converter) -> None:
        self.type: str = _resource_type(model)
        self._model: Any = model
        self._converter = converter
        left_to_msgspec = not _has_user_hook_within(model, converter)
        self._decode = _attributes_decoder(cast("Any", model)) if left_to_msgspec else loads
        hints = typing.get_type_hints(model)
        self._parse_id = int_id if hints["id"] is int else text_id
        self._arrays = {name for name, hint in hints.items() if typing.get_origin(hint) is tuple}
        self._with_default = [
            field.name
            for field in attrs.fields(cast("Any", model))
            if field.default not in (None, attrs.NOTHING) and field.name != "id"
        ]

    def __call__(self, value: Any, _: object = None) -> M:
        """The model of a resource.

        Args:
            value: a `Resource`, a dict, or JSON as bytes.

        Raises:
            DecodeError: with a path from the resource's root.
        """
        if isinstance(value, bytes | msgspec.Raw):
            value = parse(bytes(value), decode_resource, lambda data: data)
        if isinstance(value, Resource):
            return self._from_resource(value)
        if isinstance(value, dict):
            self.check_type(value.get("type"))
            return self._from_data(value.get("attributes"), value.get("id"))
        raise DecodeError("Expected `object`")

    def check_type(self, found: object) -> None:
        """Raise a DecodeError for the ``type`` of another kind of resource; it may be absent."""
        if found is not None and found != self.type:
            message = f"Expected the type {self.type!r}, got {found!r:.60}"
            raise DecodeError(message, path="$.type", kind="mismatched")

    def _from_resource(self, resource: Resource) -> M:
        self.check_type(resource.type)
        try:
            attributes = parse(bytes(resource.attributes), self._decode, lambda data: data)
        except DecodeError as error:
            failure = error
        else:
            if self._decode is loads:
                return self._from_data(attributes, resource.id)
            fields = msgspec.structs.asdict(attributes)
            for name in self._with_default:
                if fields[name] is None:
                    del fields[name]
            model: M = self._model(id=self._parse_id(resource.id), **fields)
            return model
        failure.path = "$.attributes" + failure.path.removeprefix("$")
        raise failure

    def _from_data(self, attributes: Any, resource_id: object) -> M:
        """The model of attributes that are already parsed, by the user's hooks if there are any."""
        if not isinstance(attributes, dict):
            raise DecodeError("Expected `object`", path="$.attributes")
        fields = {
            name: value
            for name, value in attributes.items()
            if value is not None or name not in self._with_default
        }
        fields["id"] = self._parse_id(resource_id)
        for name in self._arrays & fields.keys():
            if not isinstance(fields[name], list | tuple):
                # cattrs takes anything that can be iterated.
                raise DecodeError("Expected `array`", path=f"$.attributes.{name}")
        try:
            return self._generated(fields, self._model)
        except Exception as error:  # a user's hook may raise anything
            [text, *_] = cattrs.transform_error(error, "$.attributes", format_exception=_message_of)
            text, _, path = text.rpartition(" @ ")
            message, below = split_path(text)
            raise DecodeError(message, path=path + below.removeprefix("$")) from error

    @functools.cached_property
    def _generated(self) -> Callable[[Any, Any], M]:
        return _generate_structure(self._model, self._converter)


@functools.cache
def _attributes_decoder(model: Any) -> Callable[[bytes], Any]:
    """Decodes the ``attributes`` of a model's JSON to a struct with the model's fields.

    A field with a default may be null, too.
    """
    hints = typing.get_type_hints(model)
    fields: list[Any] = []
    for field in attrs.fields(model):
        hint = _aware(hints[field.name])
        if field.name == "id":
            continue
        if field.default is attrs.NOTHING:
            fields.append((field.name, hint))
        else:
            fields.append((field.name, hint | None, field.default))
    struct: Any = msgspec.defstruct(f"{model.__name__}Attributes", fields, kw_only=True, gc=False)
    return msgspec.json.Decoder(struct).decode


def _aware(kind: Any) -> Any:
    if kind is datetime:
        return _AwareDatetime
    return _AwareDatetime | None if kind == datetime | None else kind


def _resource_type(model: type[Any]) -> str:
    """A model's JSON:API ``type``.

    Raises:
        TypeError: if the model is not a resource.
    """
    for cls in model.__mro__:
        if cls in RESOURCE_TYPES:
            return RESOURCE_TYPES[cls]
    known = ", ".join(cls.__name__ for cls in RESOURCE_TYPES)
    raise TypeError(f"only {known} are resources; this is {model.__name__}")


def structure(hook: Callable[[Any, Any], Any], resource: Any, model: Any) -> Any:
    """Structure a resource by the hook that a converter has for its model.

    Args:
        hook: a `ResourceHook`, or a user's hook for the whole model, which takes a dict.
        resource: a dict, JSON, or for a `ResourceHook` a `Resource`.
        model: its model.

    Raises:
        DecodeError: with a path from the resource's root.
    """
    if isinstance(hook, ResourceHook):
        return hook(resource)
    if isinstance(resource, bytes | msgspec.Raw):
        resource = loads(bytes(resource))
    try:
        return hook(resource, model)
    except Exception as error:  # such a hook may raise anything
        raise DecodeError(_message_of(error)) from error


def _message_of(error: BaseException, kind: type[Any] | None = None) -> str:
    """An error's own message, if cattrs would only say that a value is invalid.

    A KeyError means a missing field only if the code that cattrs generates raised it.
    """
    if isinstance(error, ValueError | DecodeError) and error.args:
        return str(error)
    if isinstance(error, KeyError) and not _raised_by_cattrs(error):
        return f"{type(error).__name__}: {error}"
    return cattrs.v.format_exception(error, kind)


def _raised_by_cattrs(error: BaseException) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return "cattrs" in frame.f_code.co_filename


# From and to models


def to_dict(model: Any, *, converter: cattrs.Converter | None = None) -> dict[str, Any]:
    """A model as the API's resource, ``{"id", "type", "attributes"}``, of JSON types only.

    Raises:
        TypeError: if the model is not a resource, such as a single `Param`.
    """
    _resource_type(type(model))
    return cast("dict[str, Any]", (converter or _default_converter()).unstructure(model))


def to_json(model: Any, *, converter: cattrs.Converter | None = None) -> str:
    """A model as the API's resource, as JSON on one line; ``NaN`` and ``Infinity`` stay.

    Raises:
        TypeError: if the model is not a resource, such as a single `Param`.
    """
    resource = to_dict(model, converter=converter)
    if isinstance(model, Run) and _all_finite(model):
        return msgspec.json.encode(resource).decode()  # which would write null for NaN
    return json.dumps(resource, ensure_ascii=False, separators=(",", ":"))


def from_dict(resource: Any, model: type[M], *, converter: cattrs.Converter | None = None) -> M:
    """The model of a resource as :func:`to_dict` returns it.

    Raises:
        DecodeError: if the resource is not what the API promises.
        TypeError: if the model is not a resource, such as a single `Param`.
    """
    _resource_type(model)
    hook = (converter or _default_converter()).get_structure_hook(model)
    return cast("M", structure(hook, resource, model))


def from_json(text: str | bytes, model: type[M], *, converter: cattrs.Converter | None = None) -> M:
    """The model of a resource in JSON as :func:`to_json` returns it.

    Raises:
        DecodeError: if the resource is not what the API promises.
        TypeError: if the model is not a resource, such as a single `Param`.
    """
    body = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return from_dict(body, model, converter=converter)


@functools.cache
def _default_converter() -> cattrs.Converter:
    return make_converter()


def _all_finite(run: Run) -> bool:
    numbers = [getattr(run, name) for name in _float_fields(Run)]
    for metric in run.metric_summaries:
        numbers += [getattr(metric, name) for name in _float_fields(MetricSummary)]
    return all(number is None or math.isfinite(number) for number in numbers)


@functools.cache
def _float_fields(model: type[Any]) -> list[str]:
    hints = typing.get_type_hints(model)
    return [name for name, hint in hints.items() if hint in (float, float | None)]
