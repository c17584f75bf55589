"""Simulators: rollouts that become readings. A new one is a class in a file of its own, and a line below."""

from sim_env.simulator import SIMULATORS, Simulator, check_simulator
from sim_env.traffic.control_points import ControlPointsSimulator
from sim_env.traffic.generator import RoadsSimulator

__all__ = ["SIMULATORS", "Simulator", "check_simulator"]

SIMULATORS.register("roads", RoadsSimulator())
SIMULATORS.register("control_points", ControlPointsSimulator())
