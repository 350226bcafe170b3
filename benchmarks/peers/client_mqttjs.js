// MQTT.js under Node, over WebSocket.
'use strict'
const mqtt = require('mqtt')
const TOPIC = 'sensors/room-12/temperature'
const WARM_TOPIC = 'warm-up/room-12/temperature'
const MESSAGE = Buffer.from('0123456789abcdef'.repeat(4))

const [name, ...given] = process.argv.slice(2)
const options = Object.fromEntries(given.map(pair => pair.split('=')).map(([key, value]) => [key, Number(value)]))
const { count, warm } = options

let wall, cpu
function start () { cpu = process.cpuUsage(); wall = process.hrtime.bigint() }
function stop () {
  const seconds = Number(process.hrtime.bigint() - wall) / 1e9
  const used = process.cpuUsage(cpu)
  return { seconds, rate: count / seconds, cpu_us: (used.user + used.system) / count }
}
function done (figures, client) {
  console.log(JSON.stringify(figures))
  client.end(true, () => process.exit(0))
}
function percentiles (trips) {
  trips.sort((a, b) => a - b)
  const at = part => trips[Math.floor(trips.length * part)]
  const seconds = trips.reduce((sum, trip) => sum + trip, 0) / 1e6
  return { seconds, p50_us: at(0.5), p99_us: at(0.99) }
}

function publishAcknowledged (client, qos) {
  const publish = (number, then) => {
    let sent = 0
    let acknowledged = 0
    const one = () => {
      if (sent++ < number) client.publish(TOPIC, MESSAGE, { qos }, taken)
    }
    const taken = () => {
      if (++acknowledged === number) return then()
      one()
    }
    for (let n = 0; n < 100; n++) one()
  }
  publish(warm, () => { start(); publish(count, () => done(stop(), client)) })
}

const cases = {
  publish_qos0 (client) {
    const publish = (number, then) => {
      let sent = 0
      // In groups of 100, so that the event loop can write.
      const some = () => {
        for (let n = 0; n < 100 && sent < number; n++, sent++) client.publish(TOPIC, MESSAGE)
        if (sent < number) return setImmediate(some)
        client.publish(TOPIC, MESSAGE, { qos: 1 }, then)
      }
      some()
    }
    publish(warm, () => { start(); publish(count, () => done(stop(), client)) })
  },
  publish_qos1 (client) { publishAcknowledged(client, 1) },
  publish_qos2 (client) { publishAcknowledged(client, 2) },
  receive (client) {
    let got = 0
    client.on('message', (topic, payload) => {
      if (++got === warm) {
        start()
        client.subscribe(TOPIC)
      }
      if (got === warm + count) {
        if (!payload.equals(MESSAGE)) throw new Error('a wrong payload')
        done(stop(), client)
      }
    })
    client.subscribe(WARM_TOPIC)
  },
  echo (client) {
    const trips = []
    let began
    const publish = () => {
      began = process.hrtime.bigint()
      client.publish('bench/echo', MESSAGE, { qos: options.qos })
    }
    client.on('message', () => {
      trips.push(Number(process.hrtime.bigint() - began) / 1e3)
      if (trips.length === warm + count) return done(percentiles(trips.slice(warm)), client)
      setImmediate(publish)
    })
    client.subscribe('bench/echo', { qos: options.qos }, publish)
  }
}

const client = mqtt.connect(`ws://127.0.0.1:${options.port}/`, { protocolVersion: 4 })
client.once('connect', () => cases[name](client))
