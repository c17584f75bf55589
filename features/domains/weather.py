"""Weather quantities that several domains measure."""

from features.vocabulary import Quantity

# Bounds are world records rounded outwards (WMO World Weather and Climate Extremes Archive); outside them is an error.
TEMPERATURE = Quantity(
    name="temperature", unit="degC", aggregation="mean", lower=-90.0, upper=60.0, description="air temperature"
)
RAINFALL = Quantity(name="rainfall", unit="mm/h", aggregation="mean", lower=0.0, upper=410.0, description="rain")
SNOWFALL = Quantity(
    name="snowfall", unit="mm/h", aggregation="mean", lower=0.0, upper=200.0, description="snow, as water"
)
CLOUD_COVER = Quantity(
    name="cloud_cover", unit="percent", aggregation="mean", lower=0.0, upper=100.0, description="sky covered"
)
HUMIDITY = Quantity(
    name="humidity", unit="percent", aggregation="mean", lower=0.0, upper=100.0, description="relative humidity"
)
WIND_SPEED = Quantity(
    name="wind_speed", unit="m/s", aggregation="mean", lower=0.0, upper=115.0, description="wind speed"
)
WIND_DIRECTION = Quantity(
    name="wind_direction",
    unit="degree",
    aggregation="last",
    lower=0.0,
    upper=360.0,
    description="where the wind comes from",
)
PRESSURE = Quantity(
    name="pressure", unit="hPa", aggregation="mean", lower=400.0, upper=1090.0, description="air pressure"
)
DEW_POINT = Quantity(
    name="dew_point", unit="degC", aggregation="mean", lower=-100.0, upper=40.0, description="dew point"
)

SEVERITY = Quantity(
    name="weather_severity",
    unit="dimensionless",
    aggregation="max",
    lower=1.0,
    upper=4.0,
    description="1 clear, 2 mist or clouds, 3 light rain or snow, 4 storm",
)

WEATHER: tuple[Quantity, ...] = (
    TEMPERATURE,
    RAINFALL,
    SNOWFALL,
    CLOUD_COVER,
    HUMIDITY,
    WIND_SPEED,
    WIND_DIRECTION,
    PRESSURE,
    DEW_POINT,
    SEVERITY,
)
