"""Fault injection between clients and a broker: a tap that changes, delays or drops data by rules.

::

    faults.py    `Faults`: the tap with rules, for programs
    rules.py     the conditions of rules, and rules as TOML
    kinds.py     the faults of a packet, a frame or a head
    toxics.py    the faults of the bytes of a direction, as in Toxiproxy
    line.py      applies the rules to one connection; sans-IO
"""
