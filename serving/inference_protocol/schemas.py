"""The messages of the Open Inference Protocol, for the OpenAPI document; `messages` parses and writes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

_HISTORY = {"name": "history", "shape": [1, 24, 50], "datatype": "FP32", "data": [812.0, None, 790.5]}


class InferParameters(BaseModel):
    """What else a request says. Parameters that are not named here are passed over, as the protocol asks."""

    model_config = ConfigDict(extra="allow")

    site: str | list[str] = Field(
        default="",
        description="Name of the site, or of each window's. Then the intervals follow the errors of the site's last "
        "weeks where the model's do, and `future` and `static` may be left out.",
        examples=["R001"],
    )
    origin: str | list[str] = Field(
        default="",
        description="Moment at the end of the history, or of each window's; by default the present step.",
        examples=["2026-02-06T09:00:00Z"],
    )
    binary_data_output: bool = Field(default=False, description="Whether outputs come as bytes behind the JSON.")


class InferInput(BaseModel):
    """A tensor."""

    name: str = Field(description="`history`, `future` or `static`.", examples=["history"])
    shape: list[int] = Field(description="Of the model's input, the number of windows first.", examples=[[1, 24, 50]])
    datatype: str = Field(examples=["FP32"])
    data: list[Any] = Field(
        default=[],
        description="Numbers, flat or nested, in physical units; null where a value is missing. Left out where the "
        "parameter `binary_data_size` says how many bytes behind the JSON are the tensor's.",
        examples=[[812.0, None, 790.5]],
    )
    parameters: dict[str, JsonValue] | None = Field(default=None, examples=[{"binary_data_size": 4800}])


class InferOutput(BaseModel):
    """A tensor that is asked for."""

    name: Literal["quantiles"]
    parameters: dict[str, JsonValue] | None = Field(default=None, examples=[{"binary_data": False}])


class InferRequest(BaseModel):
    """Windows, one or several."""

    id: str | None = Field(default=None, description="Echoed in the reply.", examples=["42"])
    parameters: InferParameters | None = None
    inputs: list[InferInput] = Field(min_length=1, examples=[[_HISTORY]])
    outputs: list[InferOutput] | None = None


class InferredTensor(BaseModel):
    """A tensor that is answered."""

    name: str = Field(examples=["quantiles"])
    datatype: str = Field(examples=["FP32"])
    shape: list[int] = Field(description="Windows, steps, levels.", examples=[[1, 24, 5]])
    parameters: dict[str, JsonValue] | None = None
    data: list[float] | None = Field(default=None, description="Flat; left out where it comes as bytes.")


class InferResponse(BaseModel):
    """Quantiles of each window, step and level."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str = Field(examples=["towncast-traffic"])
    model_version: str = Field(examples=["3"])
    id: str | None = None
    parameters: dict[str, JsonValue] = Field(
        description="What the numbers are: `quantity`, `unit`, `levels`, `step_s`, `site`, `origin`, and `intervals`, "
        "`adaptive` or `fixed`; what made them: `model_version`, `runtime`, `inference_time_ms`; and `quality`, "
        "what makes them less sure. Lists have commas between.",
    )
    outputs: list[InferredTensor]


class ProtocolError(BaseModel):
    """An error as the protocol has it, and beside it what the envelope of other paths holds."""

    error: str = Field(description="What is wrong, for people.", examples=["There is no model of this name."])
    code: str = Field(examples=["UNKNOWN_NAME"])
    details: dict[str, Any]
    request_id: str = Field(examples=["req-20260206-0a1b2c3d"])
    timestamp: str = Field(examples=["2026-02-06T08:00:00Z"])


class ServerMetadata(BaseModel):
    """The server."""

    name: str = Field(examples=["towncast"])
    version: str = Field(examples=["0.1.0"])
    extensions: list[str]


class ServerLive(BaseModel):
    """The server answers."""

    live: bool


class ServerReady(BaseModel):
    """The server can infer."""

    live: bool
    ready: bool


class ModelReady(BaseModel):
    """The model can answer."""

    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """A tensor; -1 stands for the number of windows."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, JsonValue] = Field(description="`channels` names those of the last axis.")


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str = Field(examples=["onnxruntime_onnx"])
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class TensorConfig(BaseModel):
    """A tensor of one window."""

    name: str
    data_type: str = Field(examples=["TYPE_FP32"])
    dims: list[int]


class ModelConfig(BaseModel):
    """The same, as Triton's model configuration has it."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]


class IndexRequest(BaseModel):
    """Which models are listed."""

    ready: bool = Field(default=False, description="Whether only those that can answer are listed.")


class IndexEntry(BaseModel):
    """A model."""

    name: str
    version: str
    state: str = Field(examples=["READY"])
    reason: str
