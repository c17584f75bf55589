"""The forecasting domains. A new one is a file here and a line below."""

from features.domains.demand import DEMAND
from features.domains.pollution import POLLUTION
from features.domains.traffic import TRAFFIC
from features.domains.water import WATER
from features.registry import Registry
from features.vocabulary import Domain

DOMAINS: Registry[Domain] = Registry("domain")
for _domain in (TRAFFIC, DEMAND, POLLUTION, WATER):
    DOMAINS.register(_domain.name, _domain)
