"""Looking at sessions of MQTT: in the terminal, and in files. Made of the records of `mqttws.tap`.

capture.py      pcap and pcapng -> the packets of a capture, put together into streams of TCP
reading.py      any file -> records
saving.py       records -> .jsonl, .pcapng, .qlog
ladder.py       records -> lines for a terminal
totals.py       records -> what there was in all
differing.py    two files -> where they differ
live.py         a tap, shown as it goes
"""
