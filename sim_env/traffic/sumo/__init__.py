"""SUMO as a traffic engine: any configuration, driven by multipliers, read edge by edge."""

from sim_env.traffic.sumo.demand import own_vehicles_per_hour
from sim_env.traffic.sumo.edge_data import EdgeData, read_edge_data
from sim_env.traffic.sumo.engine import SumoEngine
from sim_env.traffic.sumo.plan import network_edges, road_network
from sim_env.traffic.sumo.propose import propose_controls

__all__ = [
    "EdgeData",
    "SumoEngine",
    "network_edges",
    "own_vehicles_per_hour",
    "propose_controls",
    "read_edge_data",
    "road_network",
]
