// Run clients of MQTT.js for the tests, as agent.py does for Python libraries; it describes the commands.

import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import mqtt from 'mqtt'

const clients = new Map()
const tell = (event) => process.stdout.write(JSON.stringify(event) + '\n')

async function connect ({ client: name, url, client_id: clientId, clean, will, ca }) {
  const options = { clientId, clean, protocolVersion: 4, reconnectPeriod: 0, connectTimeout: 20000 }
  if (ca) options.ca = readFileSync(ca)
  if (will) options.will = { ...will, payload: Buffer.from(will.payload, 'base64') }
  // Messages received with the CONNACK are emitted before `connectAsync` returns, so listen immediately.
  const client = mqtt.connect(url, options)
  clients.set(name, client)
  client.on('message', (topic, payload, packet) =>
    tell({ client: name, message: [topic, payload.toString('base64'), packet.qos, packet.retain] }))
  await new Promise((resolve, reject) => {
    client.once('connect', resolve)
    client.once('error', reject)
    client.once('close', () => reject(new Error('closed')))
  })
  client.on('error', () => {})
  client.on('close', () => { if (!client.disconnecting) tell({ client: name, lost: true }) })
}

async function obey (command) {
  const client = clients.get(command.client)
  switch (command.do) {
    case 'version': return JSON.parse(readFileSync(new URL('node_modules/mqtt/package.json', import.meta.url))).version
    case 'connect': return await connect(command)
    case 'subscribe': await client.subscribeAsync(command.filter, { qos: command.qos }); return null
    case 'unsubscribe': await client.unsubscribeAsync(command.filter); return null
    case 'publish':
      await client.publishAsync(command.topic, Buffer.from(command.payload, 'base64'),
        { qos: command.qos, retain: command.retain })
      return null
    case 'disconnect': clients.delete(command.client); await client.endAsync(); return null
    default: throw new Error(`unknown: ${command.do}`)
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  try {
    tell({ id: command.id, ok: (await obey(command)) ?? null })
  } catch (error) {
    tell({ id: command.id, error: String(error) })
  }
}
process.exit(0)
