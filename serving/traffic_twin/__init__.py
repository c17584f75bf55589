"""The live traffic twin: a forecast of demand drives a traffic engine, and everybody may watch."""
