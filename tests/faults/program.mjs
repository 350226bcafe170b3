// The program of program.py for MQTT.js: node program.mjs mqtt.js HOST PORT

import { createRequire } from 'node:module'

const mqtt = createRequire(new URL('../peers/package.json', import.meta.url))('mqtt')
const [,, , host, port] = process.argv
const COUNT = 100
const got = new Set()
const tell = (event) => process.stdout.write(JSON.stringify(event) + '\n')

const client = mqtt.connect(`mqtt://${host}:${port}`,
  { clientId: 'under-test', clean: false, keepalive: 2, connectTimeout: 3000, reconnectPeriod: 500,
    reconnectOnConnackError: true, protocolVersion: 4, resubscribe: true })
let received
const all = new Promise((resolve) => { received = resolve })
client.on('error', () => {})
client.on('message', (topic, payload) => {
  const number = Number(payload.toString())
  tell({ got: number })
  got.add(number)
  if (got.size === COUNT) received()
})
for (;;) {
  try {
    await client.subscribeAsync('down/#', { qos: 1 })
    break
  } catch {
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
}
tell({ ready: true })
const published = []
for (let number = 0; number < COUNT; number++) {
  for (const qos of [1, 2]) {
    published.push(client.publishAsync(`up/${qos}`, String(number), { qos }).then(() => tell({ done: [qos, number] })))
  }
}
await Promise.all(published)
await all
await client.endAsync()
process.exit(0)
