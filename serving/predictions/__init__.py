"""How each domain is asked and answered. A new one is a file here and a line below."""

from typing import Any

from features.registry import Registry
from serving.predictions.api import PredictionApi
from serving.predictions.demand import DEMAND_API
from serving.predictions.pollution import POLLUTION_API
from serving.predictions.traffic import TRAFFIC_API
from serving.predictions.water import WATER_API

APIS: Registry[PredictionApi[Any]] = Registry("prediction API")
for _api in (TRAFFIC_API, POLLUTION_API, WATER_API, DEMAND_API):
    APIS.register(_api.domain, _api)
