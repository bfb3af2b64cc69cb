"""Tables of bench/run's results."""

import platform
import time

import scenarios


def ratio(result, name):
    servers, key = result["servers"], result["key"]
    base = servers["nginx"][key]
    return servers[name][key] / base if base and name in servers else None


def line(result, subject):
    """One line for the terminal."""
    parts = [f"{name} {values[result['key']]:.1f}" for name, values in result["servers"].items()]
    found = ratio(result, subject)
    return f"{result['name']:<20} {' | '.join(parts)} {result['unit']}, ratio {found:.2f}" if found else result["name"]


def document(results, subject, args):
    """The text of docs/benchmarks.md."""
    out = [
        "# Benchmarks",
        "",
        "Written by `bench/run`; do not edit. One worker each, on one core, the same nginx.conf, the load and the origin",
        f"on another core; medians of {args.rounds} rounds of {args.seconds:g} s in which the servers took turns. nginx is the",
        "oracle that the tests build (1.28, -O2). *ratio* is the subject's CPU per request (or memory) divided by nginx's;",
        "*target* is the ratio that the project wants at most. *bare* is a relay without features, with requests and answers made",
        "beforehand (`headwater-testkit/src/bin/bare_relay.rs`): the kernel's part and little else, so no proxy comes below it here.",
        "",
        f"Subject: {subject}. Machine: {platform.machine()}, Linux {platform.release()}, {time.strftime('%Y-%m-%d', time.gmtime())}.",
        "",
        f"| scenario | unit | nginx | {subject} | ratio | target | met | haproxy | ratio | bare | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    out += [summary_row(result, subject) for result in results]
    out += [
        "",
        "## Rates, latency and memory",
        "",
        "At full load of the one core, so that the latency tells how evenly requests are served, not how fast one is.",
        "",
        "| scenario | server | requests/s | p99 ms | memory (PSS) MB |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        for name, values in result["servers"].items():
            rate = f"{values['rate']:.0f}" if "rate" in values else "–"
            p99 = f"{values['p99']:.2f}" if "p99" in values else "–"
            out.append(f"| {result['name']} | {name} | {rate} | {p99} | {values['memory'] / 1e6:.1f} |")
    return "\n".join(out) + "\n"


def summary_row(result, subject):
    servers, key = result["servers"], result["key"]

    def cell(name):
        return f"{servers[name][key]:.1f}" if name in servers else "–"

    def relative(name):
        found = ratio(result, name)
        return f"{found:.2f}" if found is not None else "–"

    found = ratio(result, subject)
    wanted = scenarios.target(result["name"])
    met = "–" if found is None else "yes" if found <= wanted else "no"
    return (
        f"| {result['name']} | {result['unit']} | {cell('nginx')} | {cell(subject)} | {relative(subject)} | {wanted:.2f} | {met} "
        f"| {cell('haproxy')} | {relative('haproxy')} | {cell('bare')} | {relative('bare')} |"
    )
