"""Tensors of the Open Inference Protocol as arrays and back: FP32, as JSON (flat or nested) or as bytes.

JSON has no NaN: a missing value is null, which the protocol's specification leaves open. In binary tensors it is NaN.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import simdjson

from features.errors import InvalidParameterError
from features.vocabulary import Float32Array
from serving.inference_protocol.messages import RequestInput, json_error

DATATYPE = "FP32"
# No physical quantity, in any unit that we use, comes near; beyond it graphs overflow.
LARGEST = 1e9
_WIRE = np.dtype("<f4")
# By the axes that are lists in lists.
_LISTS: dict[int, Any] = {
    1: msgspec.json.Decoder(list[float | None]),
    2: msgspec.json.Decoder(list[list[float | None]]),
    3: msgspec.json.Decoder(list[list[list[float | None]]]),
}
# Its memory is used again and again; a parse is over before the next begins.
_NUMBERS = simdjson.Parser()
# Parameters of tensors that change where the data is or what is answered: passing over them would be a lie.
_REFUSED = ("shared_memory_region", "classification")


def binary_size(tensor: RequestInput) -> int | None:
    """How many bytes behind the JSON are a tensor's; None where its data is in the JSON.

    Raises:
        InvalidParameterError: That is no number of bytes, or the tensor's data is in both or neither.
    """
    size = (tensor.parameters or {}).get("binary_data_size")
    parameter = f"inputs.{tensor.name}.parameters.binary_data_size"
    if size is not None and (type(size) is not int or size < 0):
        raise _wrong(parameter, size, "a number of bytes", "The size of a binary tensor is no number of bytes")
    if (size is None) != bool(memoryview(tensor.data).nbytes):
        raise _wrong(
            f"inputs.{tensor.name}.data",
            None,
            "`data`, or the parameter `binary_data_size` and as many bytes behind the JSON",
            "A tensor has its data twice, or not at all",
        )
    return size


def check_supported(parameters: dict[str, Any] | None, *, within: str) -> None:
    """Refuse the extensions of the protocol that are not here and cannot be passed over.

    Raises:
        InvalidParameterError: One is asked for.
    """
    for name in _REFUSED:
        if parameters and name in parameters:
            raise _wrong(
                f"{within}.parameters.{name}",
                None,
                "left out: this extension of the protocol is not served here",
                "An extension is asked for that is not served here",
            )


def array_of(tensor: RequestInput, shape: tuple[int, ...], data: memoryview | None) -> Float32Array:
    """The values of a tensor whose shape has been checked.

    Args:
        tensor: As it came.
        shape: What it must be.
        data: Its bytes behind the JSON; None where its data is in the JSON.

    Raises:
        InvalidParameterError: There are more values or fewer than the shape says, or a value is no number, infinite,
            or beyond 1e9.
        MalformedBodyError: The data is not JSON.
    """
    values = _from_json(tensor, shape) if data is None else _from_bytes(tensor, shape, data)
    largest = float(np.fmax.reduce(np.abs(values), axis=None)) if values.size else 0.0
    # A tensor with nothing but missing values has NaN for its largest.
    if largest > LARGEST:
        raise _wrong(
            f"inputs.{tensor.name}.data",
            largest,
            f"finite numbers of at most {LARGEST:g}, or null where a value is missing",
            "A value is infinite, or too large to be measured",
        )
    return values.astype(np.float32, copy=False)


def _from_bytes(tensor: RequestInput, shape: tuple[int, ...], data: memoryview) -> Float32Array:
    if len(data) != math.prod(shape) * _WIRE.itemsize:
        raise _count(tensor, len(data) / _WIRE.itemsize, shape)
    # A copy, because the bytes may begin at any address and a graph needs them aligned.
    return np.frombuffer(data, dtype=_WIRE).reshape(shape).astype(np.float32)


def _from_json(tensor: RequestInput, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    text = bytes(tensor.data)
    nested = text.find(b"[", 1) > 0
    values = None if nested else _plain(text)
    if values is None:
        values = _decoded(tensor, text, axes=len(shape) if nested else 1)
    if values.size != math.prod(shape) or (nested and values.shape != shape):
        raise _count(tensor, values.size, shape)
    return values.reshape(shape)


def _plain(text: bytes) -> npt.NDArray[np.float64] | None:
    """A flat list of nothing but numbers, which never become Python's; None of any other."""
    try:
        parsed = _NUMBERS.parse(text)
        return np.frombuffer(parsed.as_buffer(of_type="d")) if isinstance(parsed, simdjson.Array) else None
    except (ValueError, TypeError, RuntimeError):
        # Whatever it cannot take, the other parser takes or refuses.
        return None


def _decoded(tensor: RequestInput, text: bytes, *, axes: int) -> npt.NDArray[np.float64]:
    """A list with missing values, or lists in lists; or the error that says what is wrong with it."""
    within = f"inputs.{tensor.name}.data"
    try:
        rows = _LISTS[axes].decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise json_error(error, within=within) from error
    try:
        return np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise _wrong(within, None, "rows of equal length", "The rows of the data differ in length") from error


def data_of(values: Float32Array) -> list[float]:
    """The values as JSON writes them: flat, each exactly the number that the 32 bits hold."""
    flat: list[float] = values.ravel().tolist()
    return flat


def bytes_of(values: Float32Array) -> bytes:
    """The values as a binary tensor."""
    return values.astype(_WIRE, copy=False).tobytes()


def _count(tensor: RequestInput, found: float, shape: tuple[int, ...]) -> InvalidParameterError:
    return _wrong(
        f"inputs.{tensor.name}.data",
        f"{found:g} values",
        f"{math.prod(shape)} values, in the shape {list(shape)}",
        "The data does not fit the shape",
    )


def _wrong(parameter: str, provided: Any, allowed: str, fact: str) -> InvalidParameterError:
    return InvalidParameterError(
        parameter=parameter, provided=provided, allowed=allowed, fact=fact, remedy=f"Send {allowed}."
    )
