"""MLServer: a custom runtime behind its Open Inference Protocol."""

from graph import INPUTS, open_session
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """Holds the session."""

    async def load(self) -> bool:
        """Load the graph."""
        self.session = open_session()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run the graph."""
        feeds = {part.name: NumpyCodec.decode_input(part).astype("float32", copy=False) for part in payload.inputs}
        quantiles = self.session.run(["quantiles"], {name: feeds[name] for name in INPUTS})[0]
        output = NumpyCodec.encode_output("quantiles", quantiles)
        return InferenceResponse(model_name=self.name, outputs=[output])
