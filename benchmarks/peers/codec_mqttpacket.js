// mqtt-packet under Node. The runner writes the stream to a file, since Python generates the messages.
'use strict'
const fs = require('fs')
const assert = require('assert')
const packet = require('mqtt-packet')
const TOPIC = 'sensors/room-12/temperature'
const PAYLOAD = Buffer.from('21.4 degrees Celsius')
const PACKET_ID = 4711
const CHUNK = 64 * 1024

function nanoseconds (run, per = 1) {
  let count = 1
  let best
  for (;;) {
    const start = process.hrtime.bigint()
    run(count)
    best = Number(process.hrtime.bigint() - start)
    if (best > 25e6) break
    count *= 2
  }
  for (let n = 0; n < 7; n++) {
    const start = process.hrtime.bigint()
    run(count)
    best = Math.min(best, Number(process.hrtime.bigint() - start))
  }
  return best / count / per
}

function encode (qos) {
  const make = () => packet.generate({
    cmd: 'publish', topic: TOPIC, payload: PAYLOAD, qos, messageId: qos ? PACKET_ID : undefined, retain: false, dup: false
  })
  assert.strictEqual(make().length, qos ? 53 : 51)
  return nanoseconds(count => { for (let n = 0; n < count; n++) make() })
}

function decode (data, wanted) {
  let got = 0
  const run = count => {
    for (let n = 0; n < count; n++) {
      const parser = packet.parser()
      parser.on('packet', () => { got++ })
      for (const chunk of data) parser.parse(chunk)
    }
  }
  run(1)
  assert.strictEqual(got, wanted)
  return nanoseconds(run, wanted)
}

function decodeOne () {
  const data = packet.generate({ cmd: 'publish', topic: TOPIC, payload: PAYLOAD, qos: 0 })
  const parser = packet.parser()
  let got = 0
  parser.on('packet', () => { got++ })
  parser.parse(data)
  assert.strictEqual(got, 1)
  return nanoseconds(count => { for (let n = 0; n < count; n++) parser.parse(data) })
}

function stream () {
  const data = fs.readFileSync(process.env.BENCH_STREAM)
  const chunks = []
  for (let start = 0; start < data.length; start += CHUNK) chunks.push(data.subarray(start, start + CHUNK))
  return decode(chunks, Number(process.env.BENCH_STREAM_PACKETS))
}

const cases = {
  encode_qos0: () => encode(0),
  encode_qos1: () => encode(1),
  decode_qos0: decodeOne,
  decode_stream: stream
}
console.log(JSON.stringify({ ns: cases[process.argv[2]]() }))
