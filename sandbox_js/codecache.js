'use strict';
// Compiles the toolkits for other processes: loads them, has the sample app hold a short
// conversation, so that what a conversation needs is compiled, and writes the result to stdout. Run
// with the flags of those processes: V8 does not accept what was compiled with other flags.

const fs = require('node:fs');
const path = require('node:path');
const vm = require('node:vm');
const { createLibrary } = require('./lib/library');
const { createRealm } = require('./lib/realm');
const { encode } = require('./lib/kept');

const MODULES = ['vumigo_v02', 'lodash', 'moment', 'q', 'jed'];
const SAYS = [
  [null, 'new'], ['2', 'resume'], ['Kuruman', 'resume'],
  ['1', 'new'], ['1', 'resume'], ['Thandi', 'resume'],
];

const library = createLibrary({ modulesDir: '', console() {} });
library.preload(MODULES);
const app = path.join(__dirname, 'sample', 'clinic.js');
const source = fs.existsSync(app) ? fs.readFileSync(app, 'utf8') : null;
const script = source === null ? null : new vm.Script(source, { filename: 'clinic.js' });
const kv = new Map();

const CONFIG = '{"name": "clinic", "clinic": "Thuto"}';
const ANSWERS = {
  'config.get': ({ key }) => ({ value: key === 'config' ? CONFIG : null }),
  'kv.get': ({ key }) => ({ value: kv.has(key) ? kv.get(key) : null }),
  'kv.set': ({ key, value }) => { kv.set(key, value); return {}; },
  'kv.incr': () => ({ value: 1 }),
  'http.get': () => ({
    code: 200, body: '{"name": "Clinic", "street": "Main Road", "closes": "17:00"}',
  }),
};

let lastId = 0;

function converse(number) {
  if (number === SAYS.length || script === null) { finish(); return; }
  const run = `r${number}`, [content, session_event] = SAYS[number];
  let waiting = false, isOver = false;
  const later = () => { if (!waiting) { waiting = true; setImmediate(flush); } };
  const realm = createRealm({
    nextId: () => ++lastId, flushSoon: later, writeNow() {}, load: library.load, allowed: MODULES,
  });
  realm.begin({ run, globals: library.pick(['Buffer']), configOf: () => null, burst: 0 });
  function flush() {
    waiting = false;
    for (const line of realm.flush().split('\n').filter(Boolean)) {
      const asked = JSON.parse(line);
      const answer = (ANSWERS[asked.cmd] || (() => ({})))(asked);
      const { cmd, cmd_id } = asked;
      realm.deliver(JSON.stringify({ success: true, cmd, cmd_id, reply: true, run, ...answer }));
    }
    if (!isOver && realm.isOver()) { isOver = true; setImmediate(converse, number + 1); }
  }
  script.runInContext(realm.context);
  const msg = {
    message_id: run, from_addr: '+27000', to_addr: '8181', content, session_event,
    transport_type: 'ussd', helper_metadata: {},
  };
  realm.deliver(JSON.stringify({ reply: false, cmd: 'inbound-message', cmd_id: run, run, msg }));
  later();
}

function finish() {
  let bytes = encode(library.compiled());
  while (bytes.length > 0) bytes = bytes.subarray(fs.writeSync(1, bytes));
  process.exit(0);
}

process.on('uncaughtException', finish);   // what was compiled until then is still useful
converse(0);
