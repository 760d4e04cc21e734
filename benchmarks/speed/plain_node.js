'use strict';
// The same app in plain Node without a sandbox: a fresh V8 context per message, the toolkit loaded
// once, every resource a Map in this process. The upper bound: there is no pipe, supervisor, store,
// limit or journal.
//
//   node plain_node.js APP.js MODULES_DIR CONFIG_JSON SECONDS [once]
//
// Prints one JSON line: messages, seconds, CPU seconds, commands. With `once` it handles one
// message and ends, like a process spawned for each message.

const fs = require('node:fs');
const path = require('node:path');
const vm = require('node:vm');
const { createRequire } = require('node:module');

const [, , appFile, modulesDir, config, seconds, once] = process.argv;
const requireApp = createRequire(path.resolve(modulesDir, 'app.js'));
const script = new vm.Script(fs.readFileSync(appFile, 'utf8'), { filename: 'app.js' });
const kv = new Map();
let commands = 0;

const resources = {
  'config.get': ({ key }) => ({ value: key === 'config' ? config : null }),
  'kv.get': ({ key }) => ({ value: kv.has(key) ? JSON.parse(kv.get(key)) : null }),
  'kv.set': ({ key, value }) => { kv.set(key, JSON.stringify(value)); return {}; },
  'kv.incr': ({ key, amount }) => {
    const value = Number(kv.get(key) || 0) + (amount || 1);
    kv.set(key, String(value));
    return { value };
  },
};

function run(message, over) {
  // Replies come together in a later turn of the event loop, as they would from any store.
  const queue = [];
  let finishing = false, lastId = 0, isDue = false, isOver = false;
  function answer() {
    isDue = false;
    const batch = queue.splice(0);
    for (const [name, fields, callback] of batch) {
      const reply = { success: true, cmd: name, cmd_id: fields.cmd_id, reply: true };
      if (resources[name]) Object.assign(reply, resources[name](fields));
      if (callback) callback.call(api, reply);
    }
    if (finishing && queue.length === 0 && !isOver) { isOver = true; over(); }
  }
  function later() { if (!isDue) { isDue = true; setImmediate(answer); } }
  const api = {
    request(name, fields, callback) {
      commands += 1;
      fields.cmd_id = String(++lastId);
      later();
      queue.push([name, fields, callback]);
    },
    log_info(msg, callback) { api.request('log.info', { msg }, callback); },
    done() { finishing = true; later(); },
    on_unknown_command() {},
  };
  const context = vm.createContext({ api, require: requireApp, console });
  script.runInContext(context);
  api.on_inbound_message({ cmd: 'inbound-message', msg: message });
}

const STEPS = [[null, 'new'], ['1', 'resume'], ['34', 'resume'], ['1', 'resume']];
let messages = 0;
const deadline = performance.now() + Number(seconds) * 1000;
const began = performance.now(), usage = process.cpuUsage();

function next() {
  if (performance.now() >= deadline || (once && messages > 0)) {
    const cpu = process.cpuUsage(usage);
    const took = (performance.now() - began) / 1000;
    const found = { messages, commands, seconds: took, cpu: (cpu.user + cpu.system) / 1e6 };
    console.log(JSON.stringify(found));
    return;
  }
  const user = Math.floor(messages / STEPS.length) % 500;
  const [content, session_event] = STEPS[messages % STEPS.length];
  messages += 1;
  const message = {
    message_id: String(messages), from_addr: '+2783' + user, to_addr: '8181', content,
    session_event, transport_type: 'ussd', timestamp: '2020-01-01 00:00:00.000000',
  };
  run(message, next);
}
next();
