"""Simulators: rollouts that become readings. A new one is a class in a file of its own, and a line below."""

from sim_env.air.stations import DispersionSimulator
from sim_env.process.zone_tanks import ZoneTanksSimulator
from sim_env.simulator import SIMULATORS, Simulator, check_simulator
from sim_env.traffic.control_points import ControlPointsSimulator
from sim_env.traffic.generator import RoadsSimulator
from sim_env.traffic.town_simulators import SumoDemandSimulator, SumoTrafficSimulator

__all__ = ["SIMULATORS", "Simulator", "check_simulator"]

SIMULATORS.register("sumo", SumoTrafficSimulator())
SIMULATORS.register("sumo_demand", SumoDemandSimulator())
SIMULATORS.register("dispersion", DispersionSimulator())
SIMULATORS.register("zone_tanks", ZoneTanksSimulator())
SIMULATORS.register("roads", RoadsSimulator())
SIMULATORS.register("control_points", ControlPointsSimulator())
