// Run aedes under Node, over WebSocket: print its port, and end at the end of standard input.
'use strict'
const http = require('http')
const { WebSocketServer, createWebSocketStream } = require('ws')
const { Aedes } = require('aedes')

async function main () {
  const broker = await Aedes.createBroker()
  const server = http.createServer()
  const sockets = new WebSocketServer({ server, handleProtocols: protocols => protocols.values().next().value })
  sockets.on('connection', (socket, request) => broker.handle(createWebSocketStream(socket), request))
  server.listen(0, '127.0.0.1', () => console.log(server.address().port))
  process.stdin.resume()
  process.stdin.on('end', () => process.exit(0))
}
main()
