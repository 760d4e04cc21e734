'use strict';
// Starts harnesses for tests.

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const path = require('node:path');
const readline = require('node:readline');

const HARNESS = path.join(__dirname, '..', 'harness.js');

/** A harness with an app; `next` returns what it writes next, parsed. With `spare`, the modules
 *  that it loads before it is given the app. */
async function start(t, javascript, { execArgv = [], spare = null, ...options } = {}) {
  const stdio = ['pipe', 'pipe', 'inherit'];
  const child = spawn(process.execPath, ['--jitless', ...execArgv, HARNESS], { env: {}, stdio });
  t.after(() => child.kill('SIGKILL'));
  const reader = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const harness = {
    child,
    send(message) { child.stdin.write(JSON.stringify(message) + '\n'); },
    async next() {
      const { value, done } = await reader.next();
      if (done) return null;
      const line = JSON.parse(value);
      if (line.cmd === 'js.done') {
        assert(line.heap >= 0);
        harness.heap = line.heap;
        delete line.heap;
      }
      return line;
    },
    deliver(run, fields = {}, kind = 'message') {
      const msg = { message_id: 'm1', ...fields };
      harness.send({ reply: false, cmd: `inbound-${kind}`, cmd_id: run, run, msg });
    },
    reply({ cmd, cmd_id, run }, fields = {}) {
      harness.send({ reply: true, cmd, cmd_id, run, success: true, ...fields });
    },
  };
  const isReady = { cmd: 'js.ready', cmd_id: 'h', reply: false, run: null };
  if (spare !== null) {
    harness.send({ reply: false, cmd: 'prepare', cmd_id: '0', run: null, modules: spare });
    assert.deepEqual(await harness.next(), isReady);
  }
  harness.send({
    reply: false, cmd: 'initialize', cmd_id: '0', run: null, javascript, filename: 'app.js',
    modules: [], modules_dir: '', globals: ['Buffer'], ...options,
  });
  assert.deepEqual(await harness.next(), isReady);
  return harness;
}

const handler = (body) => `api.on_inbound_message = function (command) { ${body} };`;

module.exports = { handler, start };
