#!/bin/sh
# Brings the real peers that tests talk to and that pip cannot bring: Mosquitto with its clients, Amplify for Node.js.
# As root on Debian they are installed; elsewhere one line says what is missing. With CI=true missing is a failure.
set -eu

missing() {
    echo "tests/peers: missing: $1; the tests marked '$2' will be skipped" >&2
    if [ "${CI:-}" = true ]; then exit 1; fi
}

if ! command -v mosquitto >/dev/null 2>&1 && ! [ -x /usr/sbin/mosquitto ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "tests/peers: installing Mosquitto"
        (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            mosquitto mosquitto-clients) >/dev/null || missing "Mosquitto (apt-get failed)" mosquitto
    else
        missing "Mosquitto (on Debian, as root: apt-get install mosquitto mosquitto-clients)" mosquitto
    fi
fi

here=$(dirname "$0")
if ! command -v npm >/dev/null 2>&1 && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "tests/peers: installing Node.js"
    (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm) \
        >/dev/null || true
fi
if ! command -v npm >/dev/null 2>&1; then
    missing "Node.js and npm (on Debian, as root: apt-get install nodejs npm)" amplify
elif ! [ -d "$here/node_modules/aws-amplify" ]; then
    echo "tests/peers: installing AWS Amplify's JavaScript client"
    (cd "$here" && npm install --no-package-lock --no-audit --no-fund --silent >/dev/null 2>&1) ||
        missing "AWS Amplify's JavaScript client (npm install failed)" amplify
fi
