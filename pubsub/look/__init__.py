"""The viewer of MQTT sessions, in the terminal, in a browser and in files. It is based on the records of `mqttws.tap`.

capture.py        pcap and pcapng -> the TCP streams of a capture
reading.py        a file of any supported format -> records
saving.py         records -> .jsonl, .pcapng, .qlog, .html
ladder.py         records -> lines for a terminal
totals.py         records -> a summary
comparing.py      two files -> their differences
live.py           a live view of a tap
web.py, page.py   the web page of a session
documentation.py  links from that page to the documentation
"""
