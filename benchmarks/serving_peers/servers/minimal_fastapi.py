"""FastAPI and ONNX Runtime as its tutorials have them: pydantic in, pydantic out.

The handler is a coroutine that runs the graph inline: on one core that is faster than FastAPI's thread pool.
"""

from fastapi import FastAPI
from graph import open_session, run
from pydantic import BaseModel

session = open_session()
app = FastAPI()


class Question(BaseModel):
    """A window."""

    history: list[list[float]]
    future: list[list[float]]
    static: list[float]


class Answer(BaseModel):
    """A forecast."""

    quantiles: list[list[float]]


@app.post("/predict")
async def predict(question: Question) -> Answer:
    """Run the graph."""
    return Answer(quantiles=run(session, question.history, question.future, question.static).tolist())
