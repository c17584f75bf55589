"""BentoML: one service, one worker."""

from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import DType
from graph import open_session, run

Array = Annotated[np.ndarray, DType("float32")]


@bentoml.service(workers=1)
class Forecaster:
    """Holds the session."""

    def __init__(self) -> None:
        self.session = open_session()

    @bentoml.api
    async def predict(self, history: Array, future: Array, static: Array) -> np.ndarray:
        """Run the graph."""
        return run(self.session, history, future, static)
