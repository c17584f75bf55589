"""Water demand: hourly net inflow of a supply zone, up to 168 hours ahead."""

from features.domains.weather import HUMIDITY, RAINFALL, TEMPERATURE, WIND_SPEED
from features.vocabulary import Domain, Quantity

INFLOW = Quantity(name="inflow", unit="L/s", aggregation="mean", lower=0.0, upper=100_000.0, description="net inflow")

WATER = Domain(
    name="water",
    entity="zone",
    targets=(INFLOW,),
    covariates=(RAINFALL, TEMPERATURE, HUMIDITY, WIND_SPEED),
    known_ahead=("rainfall", "temperature", "humidity", "wind_speed"),
    horizon_steps=168,
    horizons={"24h": 24, "72h": 72, "168h": 168},
    families=("prophet_blend", "prophet", "seasonal"),
    api_path="/predict/water",
)
