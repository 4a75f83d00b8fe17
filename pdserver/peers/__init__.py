"""Servers that pass requests on to one another: each answers for the models that it lacks and another has."""
