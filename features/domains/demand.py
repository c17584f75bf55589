"""Travel demand: hourly trips from a site, 1 to 24 hours ahead."""

from features.domains.weather import HUMIDITY, SEVERITY, TEMPERATURE, WIND_SPEED
from features.vocabulary import Domain, Quantity

TRIPS = Quantity(name="trips", unit="trip/h", aggregation="sum", lower=0.0, upper=100_000.0, description="trips begun")

DEMAND = Domain(
    name="demand",
    entity="control point",
    targets=(TRIPS,),
    covariates=(TEMPERATURE, HUMIDITY, WIND_SPEED, SEVERITY),
    known_ahead=("temperature", "humidity", "wind_speed", "weather_severity"),
    horizons={"2h": 2, "6h": 6, "12h": 12, "24h": 24},
    families=("gru", "seasonal"),
    simulators=("sumo_demand", "control_points"),
    api_path="/predict/demand",
)
