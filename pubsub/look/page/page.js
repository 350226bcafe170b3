"use strict";
// A session of MQTT in the browser. Records come embedded (a saved page) or as server-sent events (a live one); their
// form is described in docs/tap.md. Whatever a peer has sent enters the page as text, never as markup.

const ROW = 24;
const MOST_BYTES = 4096;
const PER_LINE = 8;
const given = JSON.parse(document.getElementById("data").textContent);
const live = given.live;
const records = [];
const byNumber = new Map();
const above = new Map();      // number -> numbers of the records made of its bytes
const answeredBy = new Map();
let shown = [];               // the records that the filter lets through
let selected = null;
let allLayers = false, follow = live, secrets = false;
let explanations = given.explanations || null;
let base = null;

const $ = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// What a peer has sent may hold characters that turn the text around or have no shape.
const visible = (text) => String(text).replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g,
  (one) => "\\u" + one.charCodeAt(0).toString(16).padStart(4, "0"));

// --- records and filter ---

function add(batch) {
  for (const record of batch) {
    if (byNumber.has(record.number)) continue;
    if (base === null) base = record.time;
    records.push(record);
    byNumber.set(record.number, record);
    for (const [below] of record.parts || []) {
      if (!above.has(below)) above.set(below, []);
      above.get(below).push(record.number);
    }
    if (record.answers) answeredBy.set(record.answers, record.number);
    if (wanted(record)) shown.push(record);
    noteConnection(record.connection);
  }
  refresh();
  const named = Number(location.hash.slice(1));
  if (selected === null && byNumber.has(named)) { select(byNumber.get(named)); requestAnimationFrame(() => scrollTo(selected)); }
}

const connections = new Set();
function noteConnection(number) {
  if (connections.has(number)) return;
  connections.add(number);
  $("connection").append(make("option", { value: number }, `connection ${number}`));
}

let test = () => true;
function wanted(record) {
  if (!allLayers && (record.layer === "frame" || (record.layer === "tcp" && record.name === "data"))) return false;
  return test(record);
}

function topicMatches(filter, topic) {
  if ("+#".includes(filter[0]) && topic[0] === "$") return false;
  const levels = filter.split("/"), names = topic.split("/");
  for (let i = 0; i < levels.length; i++) {
    if (levels[i] === "#") return true;
    if (i >= names.length || (levels[i] !== "+" && levels[i] !== names[i])) return false;
  }
  return levels.length === names.length;
}

function compileFilter(text, connection) {
  const tests = [];
  if (connection) tests.push((record) => record.connection === Number(connection));
  for (const term of text.trim().split(/\s+/).filter(Boolean)) {
    const [, key, value] = /^(topic|id|layer|conn|from):(.+)$/.exec(term) || [];
    if (key === "topic") tests.push((r) => (r.topics || []).some((t) => r.name === "PUBLISH" ? topicMatches(value, t) : t === value || topicMatches(t, value)));
    else if (key === "id") tests.push((r) => String(r.id) === value);
    else if (key === "layer") tests.push((r) => r.layer === value);
    else if (key === "conn") tests.push((r) => String(r.connection) === value);
    else if (key === "from") tests.push((r) => r.sender === value);
    else if (term === "broken") tests.push((r) => Boolean(r.broken));
    else {
      const low = term.toLowerCase();
      tests.push((r) => r.name.toLowerCase().startsWith(low) || (r.summary || "").toLowerCase().includes(low));
    }
  }
  return (record) => tests.every((each) => each(record));
}

function filter() {
  test = compileFilter($("filter").value, $("connection").value);
  shown = records.filter(wanted);
  drawn = "";
  refresh();
}

// --- the ladder ---

let pending = false, drawn = "";
function refresh() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    $("rows").style.height = `${shown.length * ROW}px`;
    $("count").textContent = `${shown.length} of ${records.length}`;
    if (follow) $("list").scrollTop = shown.length * ROW;
    drawRows();
  });
}

function drawRows() {
  const list = $("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 10);
  const last = Math.min(shown.length, first + Math.ceil(list.clientHeight / ROW) + 20);
  const state = `${first} ${last} ${shown.length} ${selected ? selected.number : 0}`;
  if (state === drawn) return;
  drawn = state;
  const rows = [];
  for (let index = first; index < last; index++) rows.push(row(shown[index], index));
  $("rows").replaceChildren(...rows);
}

function row(record, index) {
  const joined = selected && (record.answers === selected.number || selected.answers === record.number);
  const classes = ["row", record === selected ? "selected" : "", joined ? "answer" : ""].join(" ");
  const trip = record.round_trip !== undefined ? `${(record.round_trip * 1000).toFixed(1)} ms` : "";
  const element = make("div", { class: classes, role: "option", "aria-selected": String(record === selected), "data-number": record.number, onclick: () => select(record) },
    make("span", { class: "time" }, (record.time - base).toFixed(6)),
    make("span", { class: "number hint" }, `#${record.connection}`),
    arrow(record.sender),
    make("span", { class: record.broken ? "broken" : record.sender }, (record.broken ? "! " : "") + visible(record.name)),
    make("span", {}, visible(record.summary || "")),
    make("span", { class: "trip" }, trip));
  element.style.top = `${index * ROW}px`;
  return element;
}

function arrow(sender) {
  const right = sender === "client";
  const head = right ? "M54 4 L60 8 L54 12" : "M8 4 L2 8 L8 12";
  const picture = svg("svg", { viewBox: "0 0 62 16", height: 16, preserveAspectRatio: "none", class: "arrow", role: "img", "aria-label": right ? "client to server" : "server to client" },
    svg("path", { d: "M1 0V16M61 0V16", class: "way" }), svg("path", { d: "M2 8H60", class: "way" }), svg("path", { d: head, class: "way" }));
  return picture;
}

// --- the chosen record ---

async function whole(record) {
  if (!live || record.fields || record.layer === "tcp") return record;
  const answer = await fetch(`record?n=${record.number}&secrets=${secrets ? 1 : 0}`);
  if (answer.ok) Object.assign(record, await answer.json());
  return record;
}

function layersBelow(record) {
  const found = [record];
  const numbers = new Set();
  for (const each of found) {
    for (const [number] of each.parts || []) {
      if (numbers.has(number) || !byNumber.has(number)) continue;
      numbers.add(number);
      found.push(byNumber.get(number));
    }
  }
  return found;
}

async function select(record) {
  selected = record;
  follow = false;
  $("follow").setAttribute("aria-pressed", "false");
  drawn = "";
  drawRows();
  const chain = layersBelow(record);
  await Promise.all(chain.map(whole));
  if (selected === record) show(record, chain);
}

function show(record, chain) {
  const parts = [
    make("h2", {}, `${visible(record.name)}, record ${record.number}, from the ${record.sender}, ${record.size} bytes`),
    record.meaning ? make("p", { class: "meaning" }, record.meaning) : null,
    ...(record.broken || []).map(([statement, message]) => make("p", { class: "rule" }, statementLink(statement), `: ${visible(message)}`)),
  ];
  if (record.answers) parts.push(link("answers record ", record.answers));
  if (answeredBy.has(record.number)) parts.push(link("answered by record ", answeredBy.get(record.number)));
  parts.push(states(record));
  if (record.payload) parts.push(payload(record.payload));
  for (const each of chain) parts.push(layer(each, record));
  for (const number of above.get(record.number) || []) if (byNumber.has(number)) parts.push(link("its bytes make record ", number));
  parts.push(make("div", { id: "why" }, make("span", { class: "hint" }, "Point at a field or a byte; choose it to see its rule.")));
  if (record.layer === "mqtt" || record.layer === "frame") parts.push(editor(record));
  if (record.layer === "http") parts.push(signed(record));
  $("detail").replaceChildren(...parts.filter(Boolean));
  $("detail").scrollTop = 0;
}

function link(text, number) {
  const other = byNumber.get(number);
  if (!other) return null;
  return make("p", {}, text, make("button", { onclick: () => { select(other); scrollTo(other); } }, `${number} ${other.name}`));
}

function payload(found) {
  const text = found.value === undefined ? "" : typeof found.value === "string" ? found.value : JSON.stringify(found.value, null, 1);
  return make("details", { class: "layer", open: "" }, make("summary", {}, `payload: ${found.kind}`), text ? make("pre", {}, visible(text).slice(0, 20000).replace(/\\u000a/g, "\n")) : "");
}

function layer(record, top) {
  const data = record.data.match(/../g) || [];
  const box = make("details", { class: "layer", open: "" });
  const what = { tcp: "TCP, as read", frame: "WebSocket frame", mqtt: "MQTT packet", http: "HTTP", other: "not MQTT" }[record.layer];
  const tls = record.notes && record.notes.tls_record ? `, TLS record of ${record.notes.tls_record} bytes` : "";
  box.append(make("summary", {}, `${what}: ${visible(record.name)}, record ${record.number}${tls}`));
  const bytes = make("div", { class: "bytes" });
  const own = new Set();
  if (record !== top) for (const [number, offset, size] of spansBelow(top, 0, top.data.length / 2)) if (number === record.number) for (let i = 0; i < size; i++) own.add(offset + i);
  const first = own.size ? Math.max(0, Math.min(...own) - (Math.min(...own) % PER_LINE)) : 0;
  // Of what lies below, the bytes of the chosen record are shown, and a little of what follows them.
  const last = Math.min(data.length, first + MOST_BYTES, own.size ? Math.max(...own) + 1 + 4 * PER_LINE : Infinity);
  for (let at = first; at < last; at++) {
    if (at % PER_LINE === 0 || at === first) bytes.append(make("span", { class: "at" }, at.toString(16).padStart(4, "0")));
    bytes.append(make("i", { "data-record": record.number, "data-at": at, class: own.has(at) ? "own" : "" }, data[at]), at % PER_LINE === PER_LINE - 1 ? "\n" : "");
  }
  bytes.style.whiteSpace = "pre";
  if (last < data.length) bytes.append(make("span", { class: "hint" }, `\n${data.length - last} more bytes`));
  bytes.addEventListener("mouseover", (event) => { if (event.target.dataset.at) hoverByte(record, Number(event.target.dataset.at)); });
  bytes.addEventListener("mouseleave", cool);
  bytes.addEventListener("click", (event) => { if (event.target.dataset.at) chooseByte(record, Number(event.target.dataset.at)); });
  box.append(make("div", { class: "inside" }, bytes, record.fields ? fieldTable(record) : make("span", { class: "hint" }, record.summary || "")));
  return box;
}

function fieldTable(record) {
  const table = make("table", {}, make("tr", {}, make("th", {}, "field"), make("th", {}, "value")));
  record.fields.forEach((field, index) => {
    const bits = field.bits ? make("span", { class: "bits" }, ...field.bits.map(([name, width, value]) => make("span", {}, `${name} ${value.toString(2).padStart(width, "0")}`))) : null;
    table.append(make("tr", {
      tabindex: 0, "data-record": record.number, "data-field": index,
      onmouseenter: () => heat(record, field), onmouseleave: cool, onfocus: () => heat(record, field),
      onclick: () => why(record, field), onkeydown: (event) => { if (event.key === "Enter") why(record, field); },
    }, make("td", {}, field.name), make("td", { class: "value" }, valueOf(field), bits)));
  });
  return table;
}

function valueOf(field) {
  const value = field.value;
  const text = value !== null && typeof value === "object" ? value.hex : String(value);
  return visible(text.length > 300 ? text.slice(0, 300) + "…" : text);
}

// Bytes of a record, one layer below and all the way down: [number, offset, size].
function spansBelow(record, start, size) {
  const found = [];
  let at = 0;
  for (const [number, offset, length] of record.parts || []) {
    const first = Math.max(start, at), last = Math.min(start + size, at + length);
    if (first < last) {
      found.push([number, offset + first - at, last - first]);
      const below = byNumber.get(number);
      if (below) found.push(...spansBelow(below, offset + first - at, last - first));
    }
    at += length;
  }
  return found;
}

function heat(record, field) {
  cool();
  for (const [number, offset, size] of [[record.number, field.start, field.size], ...spansBelow(record, field.start, field.size)]) {
    for (const cell of document.querySelectorAll(`i[data-record="${number}"]`)) {
      const at = Number(cell.dataset.at);
      if (at >= offset && at < offset + size) cell.classList.add("hot");
    }
  }
  const line = document.querySelector(`tr[data-record="${record.number}"][data-field="${record.fields.indexOf(field)}"]`);
  if (line) line.classList.add("hot");
}

function cool() {
  for (const each of document.querySelectorAll(".hot")) each.classList.remove("hot");
}

const fieldAt = (record, at) => (record.fields || []).find((field) => at >= field.start && at < field.start + field.size);
function hoverByte(record, at) {
  const field = fieldAt(record, at);
  if (field) heat(record, field); else cool();
}
function chooseByte(record, at) {
  const field = fieldAt(record, at);
  if (field) why(record, field);
}

// Links into the documentation, where there is one: a statement of the standard, a function, a test.
function linked(template, parts, text) {
  if (!template) return text;
  const href = template.replace(/\{(\w+)\}/g, (_, name) => encodeURI(parts[name]));
  return make("a", { href, target: "_blank", rel: "noopener noreferrer" }, text);
}

function statementLink(statement) {
  const found = /^MQTT-(\d)[\d.]*-\d+$/.exec(statement);
  if (!found) return statement;
  return linked(given.links.statement, { chapter: found[1], anchor: statement.toLowerCase().replaceAll(".", "") }, statement);
}

// "module:Class.method" as the project names code, "path::test" as pytest names a test.
function codeLink(where) {
  const [file, ...names] = where.split(/::?/);
  const name = names.join(".");
  const path = file.endsWith(".py") ? file : file.replaceAll(".", "/") + ".py";
  return make("code", {}, linked(given.links.code, { path, name }, where));
}

const between = (parts, separator) => parts.flatMap((part, index) => (index ? [separator, part] : [part]));

async function why(record, field) {
  if (explanations === null) explanations = live ? await (await fetch("explanations")).json() : {};
  for (const each of document.querySelectorAll("tr.chosen")) each.classList.remove("chosen");
  const line = document.querySelector(`tr[data-record="${record.number}"][data-field="${record.fields.indexOf(field)}"]`);
  if (line) line.classList.add("chosen");
  const found = explanations[field.key] || explanations[field.key.replace(/^[^/]+/, "packet")];
  const lines = [make("b", {}, field.name), `, ${field.size === 1 ? "1 byte" : field.size + " bytes"} from ${field.start}`];
  if (found) {
    const rules = [found.section, ...found.statements.map(statementLink)].filter(Boolean);
    lines.push(make("p", {}, found.sentence), make("p", {}, ...between(rules, ", ")));
    for (const [label, where] of [["read by", found.reads], ["written by", found.writes]]) if (where) lines.push(make("p", {}, `${label} `, codeLink(where)));
    if (found.tests.length) lines.push(make("p", {}, "shown by ", ...between(found.tests.map(codeLink), " ")));
  }
  $("why").replaceChildren(...lines);
}

// --- state ---

const MACHINE = ["new", "connecting", "connected", "closed"];
const QOS_2 = ["published 2", "received", "released", "free"];
const FLOWS = { "published 1": ["published 1", "free"], "published 2": QOS_2, received: QOS_2, released: QOS_2 };
const MOST_FLOWS = 4;

function stateAt(record) {
  const state = { client: {}, server: {} };
  for (const each of records) {
    if (each.number > record.number) break;
    if (each.connection !== record.connection || !each.changes) continue;
    for (const [end, what, , after] of each.changes) {
      if (after === "") delete state[end][what]; else state[end][what] = after;
    }
  }
  return state;
}

function states(record) {
  const state = stateAt(record);
  const box = make("details", { id: "states", class: "layer", open: "" }, make("summary", {}, "both ends after this record"));
  for (const end of ["client", "server"]) {
    const now = state[end].connection || "new";
    const inside = make("div", { class: "end" }, make("p", { class: end }, `${end}: ${now}`), machine(MACHINE, now));
    // The identifier of this record comes first; of many others, some are drawn and the rest counted.
    const flows = Object.entries(state[end]).filter(([what]) => what !== "connection");
    flows.sort(([one], [other]) => other.endsWith(` ${record.id}`) - one.endsWith(` ${record.id}`));
    for (const [what, step] of flows.slice(0, MOST_FLOWS)) {
      inside.append(make("p", { class: "mono", "data-flow": `${end} ${what}` }, `${what}: ${step}`), machine(FLOWS[step] || [step, "answered"], step));
    }
    if (flows.length > MOST_FLOWS) inside.append(make("p", { class: "hint" }, `and ${flows.length - MOST_FLOWS} more packet identifiers`));
    box.append(inside);
  }
  return box;
}

function machine(steps, now) {
  const width = 108, picture = svg("svg", { width: steps.length * width, height: 34, role: "img", "aria-label": `${steps.join(", ")}; now ${now}` });
  steps.forEach((step, index) => {
    picture.append(svg("rect", { x: index * width + 1, y: 5, width: 86, height: 24, rx: 5, class: step === now ? "box now" : "box" }));
    const label = svg("text", { x: index * width + 44, y: 21, "text-anchor": "middle" });
    label.textContent = step;
    picture.append(label);
    if (index + 1 < steps.length) picture.append(svg("path", { d: `M${index * width + 88} 17h18m-5 -4l5 4l-5 4`, class: "way" }));
  });
  return picture;
}

// --- changing bytes ---

function editor(record) {
  if (!live) return make("p", { class: "hint" }, "Bytes can be changed and parsed again in a live page (pubsub look --web).");
  const input = make("input", { id: "edit", "aria-label": "Bytes in hexadecimal", spellcheck: "false" });
  input.value = record.data;
  const result = make("div", { id: "decoded" });
  let last = 0;
  input.addEventListener("input", async () => {
    const mine = ++last;
    const answer = await post("decode", { layer: record.layer, sender: record.sender, data: input.value });
    if (mine !== last) return;
    if (answer.error) { result.replaceChildren(make("p", { class: "rule" }, visible(answer.error))); return; }
    result.replaceChildren(...answer.records.map((each) => make("div", {}, make("p", {}, make("b", {}, each.name), " ", visible(each.summary || "")),
      ...(each.broken || []).map(([statement, message]) => make("p", { class: "rule" }, statementLink(statement), `: ${visible(message)}`)), each.fields ? fieldTable(each) : "")));
  });
  const send = make("button", { id: "send", onclick: async () => {
    const answer = await post("send", { connection: record.connection, sender: record.sender, layer: record.layer, data: input.value });
    result.prepend(make("p", { class: answer.error ? "rule" : "hint" }, visible(answer.error || "sent")));
  } }, record.sender === "client" ? "send to the server" : "send to the client");
  return make("div", {}, make("h2", {}, "Change bytes"), make("div", { class: "edit" }, input, given.sends ? send : null), result);
}

async function post(path, body) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  return answer.ok ? answer.json() : { error: await answer.text() };
}

// --- a signed URL ---

const encoder = new TextEncoder();
const hex = (buffer) => Array.from(new Uint8Array(buffer), (one) => one.toString(16).padStart(2, "0")).join("");
const digest = async (text) => hex(await crypto.subtle.digest("SHA-256", encoder.encode(text)));
async function hmac(key, text) {
  const made = await crypto.subtle.importKey("raw", typeof key === "string" ? encoder.encode(key) : key, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return crypto.subtle.sign("HMAC", made, encoder.encode(text));
}

function signed(record) {
  const head = (record.data.match(/../g) || []).map((one) => String.fromCharCode(parseInt(one, 16))).join("");
  const target = /^GET (\S+)/.exec(head);
  if (!target || !target[1].includes("X-Amz-Signature=")) return null;
  const box = make("div", { id: "signed" }, make("h2", {}, "Signature Version 4 of this URL"));
  const [path, query] = target[1].split("?");
  const pairs = query.split("&").map((one) => one.split("="));
  const value = (name) => decodeURIComponent((pairs.find(([key]) => key === name) || ["", ""])[1]);
  if (value("X-Amz-Signature").startsWith("*")) return box.append(make("p", { class: "hint" }, "Its values are hidden; the button secrets shows them.")), box;
  const host = (/\r\nHost: *([^\r]+)/i.exec(head) || [])[1] || "";
  // AWS IoT signs without the token, and adds it behind the signature.
  const tokenLast = query.indexOf("X-Amz-Security-Token") > query.indexOf("X-Amz-Signature");
  const without = pairs.filter(([key]) => key !== "X-Amz-Signature" && !(tokenLast && key === "X-Amz-Security-Token")).map((one) => one.join("=")).sort();
  const canonical = ["GET", path, without.join("&"), `host:${host}`, "", "host", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"].join("\n");
  const [key, day, region, service] = value("X-Amz-Credential").split("/");
  const out = make("div", {});
  box.append(make("p", {}, "Canonical request: method, path, query without the signature, signed headers, their names, hash of the body."), make("pre", { id: "canonical" }, visible(canonical).replace(/\\u000a/g, "\n")), out);
  const secret = make("input", { type: "password", "aria-label": "Secret access key", placeholder: "secret access key: stays in this page", autocomplete: "off" });
  (async () => {
    const toSign = ["AWS4-HMAC-SHA256", value("X-Amz-Date"), `${day}/${region}/${service}/aws4_request`, await digest(canonical)].join("\n");
    out.append(make("p", {}, "String to sign: algorithm, date of the request, scope, hash of the canonical request."), make("pre", { id: "tosign" }, visible(toSign).replace(/\\u000a/g, "\n")),
      make("p", {}, `Key: HMAC-SHA256 of "AWS4" and the secret key of ${visible(key)} with the day, then of that with the region, the service, "aws4_request"; the signature is the HMAC of the string to sign with it.`), secret);
    const steps = make("table", { id: "steps" });
    out.append(steps);
    secret.addEventListener("input", async () => {
      let made = "AWS4" + secret.value;
      const lines = [];
      for (const part of [day, region, service, "aws4_request"]) { made = await hmac(made, part); lines.push([part, hex(made)]); }
      const signature = hex(await hmac(made, toSign));
      lines.push(["signature", signature], ["in the URL", value("X-Amz-Signature")]);
      steps.replaceChildren(...lines.map(([name, shownValue]) => make("tr", {}, make("td", {}, visible(name)), make("td", { class: "value" }, visible(shownValue)))),
        make("tr", {}, make("td", {}, ""), make("td", {}, signature === value("X-Amz-Signature") ? "they are equal" : "they differ")));
    });
  })();
  return box;
}

// --- the broker ---

async function showBroker() {
  const answer = await fetch("broker");
  if (!answer.ok) return;
  const state = await answer.json();
  const cards = make("div", { class: "cards" });
  const table = (names, rows) => make("table", {}, make("tr", {}, ...names.map((name) => make("th", {}, name))), ...rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, visible(cell))))));
  cards.append(
    make("section", {}, make("h2", {}, `Sessions (${state.sessions.length})`), table(["client", "connected", "address", "waiting", "in flight"], state.sessions.map((s) => [s.client_id, s.connected ? "yes" : "no", s.address, s.waiting, s.in_flight]))),
    make("section", {}, make("h2", {}, "Subscriptions"), tree(state.subscriptions)),
    make("section", {}, make("h2", {}, `Retained messages (${state.retained.length})`), table(["topic", "payload"], state.retained)),
    make("section", {}, make("h2", {}, "Metrics"), table(["metric", "value"], Object.entries(state.metrics))));
  const old = $("broker").querySelector(".cards");
  if (old) { old.replaceWith(cards); return; }
  const topic = make("input", { placeholder: "topic", "aria-label": "Topic", id: "pub-topic" }), text = make("input", { placeholder: "payload", "aria-label": "Payload", id: "pub-payload" });
  const qos = make("select", { "aria-label": "QoS" }, ...[0, 1, 2].map((one) => make("option", { value: one }, `QoS ${one}`))), keep = make("input", { type: "checkbox", id: "pub-retain" });
  const said = make("span", { class: "hint", role: "status" });
  const publish = make("button", { type: "button", id: "pub-send", onclick: async () => {
    const result = await post("publish", { topic: topic.value, payload: text.value, qos: Number(qos.value), retain: keep.checked });
    said.textContent = visible(result.error || `sent to ${result.given} subscriber${result.given === 1 ? "" : "s"}`);
    showBroker();
  } }, "publish");
  const wish = make("input", { placeholder: "Topic Filter", "aria-label": "Topic Filter", id: "sub-filter" });
  const subscribe = make("button", { type: "button", onclick: () => { $("filter").value = `publish topic:${wish.value}`; tab("session"); filter(); } }, "show its messages");
  $("broker").replaceChildren(make("form", { onsubmit: (event) => event.preventDefault() }, topic, text, qos, make("label", {}, keep, " retain"), publish, wish, subscribe, said), cards);
}

function tree(subscriptions) {
  const root = {};
  for (const [filterText, clients] of Object.entries(subscriptions)) {
    let node = root;
    for (const level of filterText.split("/")) node = (node.below ||= {})[level] ||= {};
    node.clients = clients;
  }
  const draw = (node) => make("ul", {}, ...Object.entries(node.below || {}).map(([level, below]) =>
    make("li", {}, make("span", { class: "mono" }, visible(level) || "(empty)"), below.clients ? ` ← ${below.clients.map(visible).join(", ")}` : "", below.below ? draw(below) : "")));
  return draw(root);
}

function tab(name) {
  for (const each of ["session", "broker"]) {
    $(each).hidden = each !== name;
    $(`tab-${each}`).setAttribute("aria-pressed", String(each === name));
  }
  if (name === "broker") showBroker();
}

// --- controls ---

function scrollTo(record) {
  const index = shown.indexOf(record);
  if (index < 0) return;
  const list = $("list"), top = index * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
}

function move(step) {
  if (!shown.length) return;
  const index = selected ? shown.indexOf(selected) : -1;
  const next = step === -Infinity ? 0 : step === Infinity ? shown.length - 1 : Math.min(shown.length - 1, Math.max(0, index + step));
  select(shown[next]);
  scrollTo(shown[next]);
}

function press(button, value) { button.setAttribute("aria-pressed", String(value)); }
function toggleLayers() { allLayers = !allLayers; press($("layers"), allLayers); filter(); }
function toggleFollow() { follow = !follow; press($("follow"), follow); refresh(); }
function toggleTheme() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
}
function answer() {
  const other = selected && byNumber.get(selected.answers || answeredBy.get(selected.number));
  if (other) { select(other); scrollTo(other); }
}

$("list").addEventListener("scroll", drawRows, { passive: true });
$("filter").addEventListener("input", filter);
$("connection").addEventListener("change", filter);
$("layers").addEventListener("click", toggleLayers);
$("follow").addEventListener("click", toggleFollow);
$("theme").addEventListener("click", toggleTheme);
$("help").addEventListener("click", () => $("keys").showModal());
$("tab-session").addEventListener("click", () => tab("session"));
$("tab-broker").addEventListener("click", () => tab("broker"));
$("secrets").addEventListener("click", () => {
  secrets = !secrets;
  press($("secrets"), secrets);
  for (const record of records) if (record.fields) { delete record.fields; }
  if (selected) select(selected);
});
addEventListener("resize", () => { drawn = ""; drawRows(); });
addEventListener("keydown", (event) => {
  if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const keys = {
    ArrowDown: () => move(1), j: () => move(1), ArrowUp: () => move(-1), k: () => move(-1), PageDown: () => move(20), PageUp: () => move(-20),
    Home: () => move(-Infinity), End: () => move(Infinity), a: answer, l: toggleLayers, f: toggleFollow, d: toggleTheme,
    "/": () => $("filter").focus(), "?": () => $("keys").showModal(), e: () => $("edit") && $("edit").focus(),
  };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});

if (live) {
  if (given.broker) $("tabs").hidden = false;
  const events = new EventSource("events");
  events.onmessage = (event) => add(JSON.parse(event.data));
  events.onerror = () => { document.title = "MQTT session (ended)"; };
} else {
  for (const id of ["follow", "secrets"]) $(id).hidden = true;
  add(given.records);
}
