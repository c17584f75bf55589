"""FastAPI and ONNX Runtime without validation: orjson in, orjson out."""

import orjson
from fastapi import FastAPI, Request, Response
from graph import open_session, run

session = open_session()
app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> Response:
    """Run the graph."""
    question = orjson.loads(await request.body())
    quantiles = run(session, question["history"], question["future"], question["static"])
    answer = orjson.dumps({"quantiles": quantiles}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(answer, media_type="application/json")
