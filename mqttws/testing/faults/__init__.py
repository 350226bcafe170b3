"""Faults on the way between clients and a broker, by rules: a tap that does not forward everything as it came.

faults.py    `Faults`: the tap with rules, from Python
rules.py     what a rule matches, and rules as TOML
kinds.py     what can be done to a packet, a frame or a head
toxics.py    what can be done to the bytes of a direction: those of Toxiproxy
line.py      what decides over one connection; sans-IO
"""
