"""Fixtures of the store tests: clients of both drivers, and a broker."""

from drivers import broker as broker
from drivers import driver as driver
from drivers import make as make
