"""Simulators of processes: a reactor, a water tank, a room. A new one is a file of its own, and a line below."""

from sim_env.process.reactor import REACTOR
from sim_env.process.room_temperature import ROOM_TEMPERATURE
from sim_env.process.system import PROCESSES
from sim_env.process.water_tank import WATER_TANK

__all__ = ["PROCESSES"]

PROCESSES.register("water_tank", WATER_TANK)
PROCESSES.register("room_temperature", ROOM_TEMPERATURE)
PROCESSES.register("reactor", REACTOR)
