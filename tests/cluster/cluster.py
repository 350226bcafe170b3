"""`make cluster`: test the features of each server, and fail-over under load; write docs/servers.md and docs/scale.md.

To run some: `python tests/cluster/cluster.py nats haproxy`; the names are those of `SET_UPS`, and "servers" for
docs/servers.md. The results are stored in clusters.json beside this file; a run of some set-ups keeps the results of
the others.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

import pytest
from behaviours import differences, known, observe
from cluster_haproxy import NATSBehindHAProxy
from cluster_nats import NATS
from cluster_network import NATSInNamespaces
from cluster_nodes import Cluster
from cluster_rabbitmq import RabbitMQ
from cluster_servers import SERVERS
from failover import NOTICE, Accounts, Plan, apart, run
from pages import DOCS, behaviours_table, replace_part, rules_table, table

RESULTS = Path(__file__).with_name("clusters.json")
DRIVERS = ("blocking", "asyncio")


def in_front(cluster: Cluster) -> dict[str, Any]:
    """Give both clients only the URL of the proxy."""
    assert isinstance(cluster, NATSBehindHAProxy)
    return {"subscriber": cluster.front, "publisher": cluster.front}


@dataclass(frozen=True)
class SetUp:
    """A cluster with the options of a run.

    Attributes:
        what: a description.
        make: creates the cluster.
        urls: returns the URLs of the clients.
        options: options of the clients, in addition to those of `failover`.
        keeps: whether a session survives its node, so that nothing may be lost.
    """

    what: str
    make: Callable[[], Cluster]
    urls: Callable[[Cluster], dict[str, Any]] = apart
    options: tuple[tuple[str, Any], ...] = ()
    keeps: bool = True


SET_UPS = {
    "nats": SetUp("three nodes, each killed in turn", NATS),
    "nats-500ms": SetUp("the same, with `js_api_timeout: 500ms`", lambda: NATS(js_api_timeout="500ms")),
    "haproxy": SetUp("three nodes behind HAProxy, one URL", NATSBehindHAProxy, in_front),
    "hole": SetUp(
        "three nodes, each a black hole in turn; keep_alive=60", NATSInNamespaces, options=(("keep_alive", 60),)
    ),
    "rabbitmq": SetUp("three nodes, each killed in turn; no mirrors", lambda: RabbitMQ(mirrored=False), keeps=False),
    "rabbitmq-mirrored": SetUp("three nodes, each killed in turn; `ha-mode: all`", lambda: RabbitMQ(mirrored=True)),
}


def try_set_up(name: str, plan: Plan) -> list[dict[str, Any]]:
    """Kill the nodes of a cluster in turn, under the load of each driver."""
    set_up, rows = SET_UPS[name], []
    for driver in DRIVERS:
        with set_up.make() as cluster:
            cluster.settle()
            accounts = run(driver, cluster, set_up.urls(cluster), plan, **dict(set_up.options))
        print(f"{cluster.product}, {set_up.what}, {driver}: {accounts}", flush=True)
        for kill in accounts.kills:
            print(f"    {kill}", flush=True)
        rows.append(row(cluster.product, driver, accounts))
    return rows


def row(product: str, driver: str, accounts: Accounts) -> dict[str, Any]:
    """Return the row of docs/scale.md for a run."""
    pauses, own = accounts.pauses, accounts.own
    noticed = [kill.noticed for kill in accounts.kills if kill.noticed is not None]
    return {
        "product": product,
        "driver": driver,
        "date": date.today().isoformat(),
        "kills": len(accounts.kills),
        "acknowledged": accounts.acknowledged,
        "lost": accounts.lost,
        "failed": accounts.failed,
        "out of order": accounts.disordered,
        "late": accounts.resent,
        "duplicates": accounts.duplicates,
        "sessions lost": accounts.sessions_lost,
        "pause": [round(median(pauses), 2), round(pauses[-1], 2)],
        "own": [round(median(own), 2), round(own[-1], 2)],
        "beyond": round(accounts.beyond_own, 2),
        "returned": round(accounts.returned, 2),
        "noticed": round(max(noticed), 2) if noticed else None,
    }


def verdict(name: str, found: list[dict[str, Any]]) -> list[str]:
    """Return the faults of a set-up."""
    faults = []
    for each in found:
        subject = f"{name}, {each['driver']}"
        if SET_UPS[name].keeps and each["lost"]:
            faults.append(f"{subject}: {each['lost']} lost")
        if SET_UPS[name].keeps and each["failed"]:
            faults.append(f"{subject}: {each['failed']} failed")
        if each["out of order"]:
            faults.append(f"{subject}: {each['out of order']} out of order")
        if SET_UPS[name].keeps and each["beyond"] > 1.0:
            faults.append(f"{subject}: a pause {each['beyond']} s longer than the cluster's own")
        if each["noticed"] is not None and each["noticed"] > NOTICE:
            faults.append(f"{subject}: a dead node noticed after {each['noticed']} s, later than {NOTICE} s")
    return faults


def write_scale(results: dict[str, list[dict[str, Any]]]) -> None:
    """Write the part of docs/scale.md about clusters."""
    head = [
        "cluster",
        "set-up",
        "driver",
        "kills",
        "acknowledged",
        "lost",
        "out of order",
        "sent again late",
        "duplicates",
    ]
    head += [
        "pause, p50 / max",
        "the cluster's own, p50 / max",
        "beyond it",
        "pause when it returns, max",
        "noticed within",
    ]
    rows = []
    for name, set_up in SET_UPS.items():
        for each in results.get(name, []):
            seconds = [f"{each[key][0]:.2f} / {each[key][1]:.2f} s" for key in ("pause", "own")]
            returned, noticed = (
                f"{each[key]:.2f} s" if each.get(key) is not None else "" for key in ("returned", "noticed")
            )
            counts = [
                f"{each[key]:,}" for key in ("kills", "acknowledged", "lost", "out of order", "late", "duplicates")
            ]
            rows.append(
                [
                    each["product"],
                    set_up.what,
                    each["driver"],
                    *counts,
                    *seconds,
                    f"{each['beyond']:.2f} s",
                    returned,
                    noticed,
                ]
            )
    dates = sorted({each["date"] for found in results.values() for each in found})
    introduction = (
        f"Measured on {', '.join(dates)} with Python {platform.python_version()} on {os.cpu_count()} cores of one "
        "machine, where the cluster, the load and the proxy run side by side."
    )
    replace_part(DOCS / "scale.md", "clusters", f"{introduction}\n\n{table(head, rows)}")


def write_servers() -> list[str]:
    """Test all servers and write docs/servers.md. Return the differences that are missing or wrong in the profiles."""
    found, faults = {}, []
    for name, server in SERVERS.items():
        with server() as (version, url, other):
            found[name] = version, observe(url, other, known(name))
        wrong = differences(found[name][1]) ^ (known(name) & set(found[name][1]))
        faults += [f"the profile {name!r} and the server differ over {each}" for each in sorted(wrong)]
    replace_part(DOCS / "servers.md", "rules", rules_table())
    replace_part(DOCS / "servers.md", "behaviours", behaviours_table(found, date.today().isoformat()))
    return faults


def main() -> int:
    """Run the requested parts. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", metavar="SET-UP", help=f"servers, {', '.join(SET_UPS)}; none: all")
    parser.add_argument("--kills", type=int, default=20, help="the number in each run, 15 s apart")
    given = parser.parse_args()
    unknown = set(given.only) - {*SET_UPS, "servers"}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    logging.disable(logging.WARNING)  # errors of the load are counted
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    faults = write_servers() if not given.only or "servers" in given.only else []
    for name in SET_UPS:
        if given.only and name not in given.only:
            continue
        try:
            results[name] = try_set_up(name, Plan(kills=given.kills))
        except pytest.skip.Exception as reason:
            print(f"{name}: not run: {reason}")
            continue
        faults += verdict(name, results[name])
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        write_scale(results)
    print("\n".join(faults) or "everything is as it must be")
    return bool(faults)


if __name__ == "__main__":
    raise SystemExit(main())
