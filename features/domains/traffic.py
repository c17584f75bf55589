"""Road traffic: hourly volume of a road, 1 to 24 hours ahead."""

from features.domains.weather import CLOUD_COVER, RAINFALL, SNOWFALL, TEMPERATURE
from features.vocabulary import Domain, Quantity

VOLUME = Quantity(
    name="volume", unit="veh/h", aggregation="mean", lower=0.0, upper=20_000.0, description="vehicles past the counter"
)
SPEED = Quantity(
    name="speed", unit="km/h", aggregation="mean", lower=0.0, upper=200.0, description="mean speed of the vehicles"
)

TRAFFIC = Domain(
    name="traffic",
    entity="road",
    targets=(VOLUME,),
    covariates=(TEMPERATURE, RAINFALL, SNOWFALL, CLOUD_COVER),
    auxiliaries=(SPEED,),
    horizons={"2h": 2, "6h": 6, "12h": 12, "24h": 24},
    neighbour_count=2,
    static_names=("lanes",),
    families=("lstm", "seasonal"),
    simulators=("sumo", "roads"),
    api_path="/predict/traffic",
)
