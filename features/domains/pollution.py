"""Air pollution: hourly PM2.5 and PM10 at a station, 1 to 48 hours ahead."""

from features.domains.weather import DEW_POINT, PRESSURE, RAINFALL, TEMPERATURE, WIND_DIRECTION, WIND_SPEED
from features.vocabulary import Domain, Quantity


def _concentration(name: str, description: str, upper: float) -> Quantity:
    return Quantity(
        name=name, unit="ug/m3", aggregation="mean", lower=0.0, upper=upper, description=f"{description} in the air"
    )


PM2_5 = _concentration("pm2_5", "particles below 2.5 um", 2_000.0)
PM10 = _concentration("pm10", "particles below 10 um", 5_000.0)
SO2 = _concentration("so2", "sulphur dioxide", 2_000.0)
NO2 = _concentration("no2", "nitrogen dioxide", 2_000.0)
CO = _concentration("co", "carbon monoxide", 50_000.0)
O3 = _concentration("o3", "ozone", 2_000.0)

POLLUTION = Domain(
    name="pollution",
    entity="station",
    targets=(PM2_5, PM10),
    covariates=(SO2, NO2, CO, O3, TEMPERATURE, PRESSURE, DEW_POINT, RAINFALL, WIND_DIRECTION, WIND_SPEED),
    known_ahead=("temperature", "pressure", "dew_point", "rainfall", "wind_direction", "wind_speed"),
    horizon_steps=48,
    horizons={"6h": 6, "12h": 12, "24h": 24, "48h": 48},
    neighbour_count=2,
    families=("boosted", "seasonal"),
    simulators=("dispersion",),
    api_path="/predict/pollution",
)
