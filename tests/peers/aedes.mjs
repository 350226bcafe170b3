// Run aedes on four free ports, and print them: {"version": ..., "mqtt": 1, "mqtts": 2, "ws": 3, "wss": 4}.
//     node aedes.mjs FILE    (key and certificates in one)

import { readFileSync } from 'node:fs'
import { createServer as createHttp } from 'node:http'
import { createServer as createHttps } from 'node:https'
import { createServer as createTcp } from 'node:net'
import { createServer as createTls } from 'node:tls'
import * as module from 'aedes'
import { createWebSocketStream, WebSocketServer } from 'ws'

const Aedes = module.Aedes ?? module.default
const broker = Aedes.createBroker ? await Aedes.createBroker() : new Aedes()
const pem = readFileSync(process.argv[2])
const tls = { key: pem, cert: pem }

function upgraded (server) {
  new WebSocketServer({ server, handleProtocols: () => 'mqtt' }).on('connection', (socket, request) =>
    broker.handle(createWebSocketStream(socket), request))
  return server
}

const servers = {
  mqtt: createTcp(broker.handle),
  mqtts: createTls(tls, broker.handle),
  ws: upgraded(createHttp()),
  wss: upgraded(createHttps(tls))
}
const manifest = readFileSync(new URL('node_modules/aedes/package.json', import.meta.url))
const said = { version: JSON.parse(manifest).version }
for (const [scheme, server] of Object.entries(servers)) {
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  said[scheme] = server.address().port
}
console.log(JSON.stringify(said))
process.stdin.on('end', () => process.exit(0)).resume()
