"""Water demand: hourly net inflow of a supply zone, up to 168 hours ahead."""

from features.domains.weather import HUMIDITY, RAINFALL, TEMPERATURE, WIND_SPEED
from features.vocabulary import Domain, Quantity

INFLOW = Quantity(name="inflow", unit="L/s", aggregation="mean", lower=0.0, upper=100_000.0, description="net inflow")
TANK_LEVEL = Quantity(
    name="tank_level", unit="m", aggregation="last", lower=0.0, upper=100.0, description="water in the zone's tower"
)

WATER = Domain(
    name="water",
    entity="zone",
    targets=(INFLOW,),
    covariates=(RAINFALL, TEMPERATURE, HUMIDITY, WIND_SPEED),
    known_ahead=("rainfall", "temperature", "humidity", "wind_speed"),
    auxiliaries=(TANK_LEVEL,),
    horizon_steps=168,
    horizons={"24h": 24, "72h": 72, "168h": 168},
    families=("prophet_blend", "prophet", "seasonal"),
    simulators=("zone_tanks",),
    api_path="/predict/water",
)
