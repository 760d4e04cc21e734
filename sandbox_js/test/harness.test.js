'use strict';
// The harness as the supervisor sees it: a process that speaks JSON lines. `node --test test/`

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');
const { test } = require('node:test');

const HARNESS = path.join(__dirname, '..', 'harness.js');

/** A harness with an app; `lines` gives what it says, parsed. */
async function start(t, javascript, options = {}) {
  const child = spawn(process.execPath, ['--jitless', HARNESS], { env: {}, stdio: ['pipe', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  const reader = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const harness = {
    child,
    send(message) { child.stdin.write(JSON.stringify(message) + '\n'); },
    async next() { const { value, done } = await reader.next(); if (done) return null; const line = JSON.parse(value); if (line.cmd === 'js.done') { assert(line.heap >= 0); harness.heap = line.heap; delete line.heap; } return line; },
    deliver(run, msg = {}, kind = 'message') {
      harness.send({ reply: false, cmd: `inbound-${kind}`, cmd_id: run, run, msg: { message_id: 'm1', ...msg } });
    },
    reply(command, fields = {}) {
      harness.send({ reply: true, cmd: command.cmd, cmd_id: command.cmd_id, run: command.run, success: true, ...fields });
    },
  };
  harness.send({
    reply: false, cmd: 'initialize', cmd_id: '0', run: null, javascript, filename: 'app.js', modules: [], modules_dir: '', globals: ['Buffer'],
    ...options,
  });
  assert.deepEqual(await harness.next(), { cmd: 'js.ready', cmd_id: 'h', reply: false, run: null });
  return harness;
}

const handler = (body) => `api.on_inbound_message = function (command) { ${body} };`;

test('a reply to another run is refused, also under the id of a command that waits', async (t) => {
  const harness = await start(t, handler("api.request('kv.get', {}, function (r) { api.log_info(r.value); api.done(); });"));
  harness.deliver('r1');
  const first = await harness.next();
  harness.reply(first, { value: 'of r1' });
  const logged = await harness.next();
  assert.equal(logged.msg, 'of r1');
  harness.reply(logged);
  assert.equal((await harness.next()).cmd, 'js.done');
  harness.deliver('r2');
  const second = await harness.next();
  assert.equal(second.run, 'r2');
  harness.reply({ ...second, run: 'r1' }, { value: 'late' });
  harness.reply({ ...second, run: 'r3' }, { value: 'of nobody' });
  harness.reply(second, { value: 'of r2' });
  const told = await harness.next();
  assert.deepEqual([told.run, told.msg], ['r2', 'of r2']);
});

test('a command carries its name, id, run and fields; its reply reaches the callback', async (t) => {
  const harness = await start(t, handler("api.request('kv.get', {key: 'a'}, function (r) { api.log_info(r.value); api.done(); });"));
  harness.deliver('r1');
  const get = await harness.next();
  assert.deepEqual(get, { key: 'a', cmd: 'kv.get', cmd_id: '1', reply: false, run: 'r1' });
  harness.reply(get, { value: 'v' });
  const log = await harness.next();
  assert.deepEqual(log, { msg: 'v', cmd: 'log.info', cmd_id: '2', reply: false, run: 'r1' });
  harness.reply(log);
  assert.deepEqual(await harness.next(), { cmd: 'js.done', cmd_id: '3', reply: false, run: 'r1' });
});

test('ids go on from run to run, and replies to an earlier run are ignored', async (t) => {
  const harness = await start(t, handler("api.request('http.get', {}, function () { api.log_info('late'); }); api.done();"));
  harness.deliver('r1');
  const first = await harness.next();
  assert.equal((await harness.next()).cmd, 'js.done');
  harness.deliver('r2');
  const second = await harness.next();
  assert.deepEqual([first.cmd_id, second.cmd_id], ['1', '3']);
  harness.reply(first);
  assert.equal((await harness.next()).cmd, 'js.done');
});

test('the object handed over is marked, and may be handed over twice', async (t) => {
  const harness = await start(t, handler("var m = {a: 1}; api.request('x.a', m); api.request('x.b', m); api.log_info(m.cmd + m.cmd_id + m.reply); api.done();"));
  harness.deliver('r1');
  const sent = [await harness.next(), await harness.next(), await harness.next()];
  assert.deepEqual(sent.map((c) => [c.cmd, c.cmd_id]), [['x.a', '1'], ['x.b', '2'], ['log.info', '3']]);
  assert.equal(sent[2].msg, 'x.b2false');
});

test("a field of the app's called run does not stand in for ours", async (t) => {
  const harness = await start(t, handler("api.request('x.a', {run: 'forged'}); api.done();"));
  harness.deliver('r1');
  assert.equal((await harness.next()).run, 'r1');
});

test('half a surrogate pair becomes U+FFFD; text that only looks like one stays', async (t) => {
  const harness = await start(t, handler("api.log_info('cut \\ud83d end \\\\ud83d \\u00e9 \\ud83d\\ude00'); api.done();"));
  harness.deliver('r1');
  assert.equal((await harness.next()).msg, 'cut \ufffd end \\ud83d é 😀');
});

test('UTF-8 arrives whole, whatever the chunks', async (t) => {
  const harness = await start(t, handler('api.log_info(command.msg.content); api.done();'));
  const line = Buffer.from(JSON.stringify({ reply: false, cmd: 'inbound-message', cmd_id: '1', run: 'r1', msg: { content: 'Zoë ☃ 😀' } }) + '\n');
  for (const byte of line) {
    harness.child.stdin.write(Buffer.of(byte));
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal((await harness.next()).msg, 'Zoë ☃ 😀');
});

test('events go to on_inbound_event; an app without one is simply done', async (t) => {
  const with_handler = await start(t, "api.on_inbound_event = function (c) { api.log_info(c.msg.event_type); api.done(); };");
  with_handler.deliver('r1', { event_type: 'ack' }, 'event');
  assert.equal((await with_handler.next()).msg, 'ack');
  const without = await start(t, handler(''));
  without.deliver('r1', { event_type: 'ack' }, 'event');
  assert.equal((await without.next()).cmd, 'js.done');
});

test('on_unknown_command takes what has no handler', async (t) => {
  const harness = await start(t, 'api.on_unknown_command = function (c) { api.log_info(c.cmd); api.done(); };');
  harness.deliver('r1');
  assert.equal((await harness.next()).msg, 'inbound-message');
});

test('each run has fresh globals and prototypes; modules are loaded once', async (t) => {
  const harness = await start(t, handler(`
    var q = require('q'), seen = [typeof mark, typeof [].mark, typeof q.mark, typeof require('lodash').mark];
    mark = 1; Array.prototype.mark = 1; q.mark = 1;
    api.log_info(seen.join()); api.done();`), { modules: ['q', 'lodash'] });
  const seen = [];
  for (const run of ['r1', 'r2']) {
    harness.deliver(run);
    const log = await harness.next();
    seen.push(log.msg);
    harness.reply(log);
    assert.equal((await harness.next()).cmd, 'js.done');
  }
  assert.deepEqual(seen, ['undefined,undefined,undefined,undefined', 'undefined,undefined,number,undefined']);
});

test('an error says kind, message and the stack of the app alone', async (t) => {
  const harness = await start(t, handler('function inner() { throw new TypeError("bad"); } inner();'));
  harness.deliver('r1');
  const error = await harness.next();
  assert.deepEqual([error.cmd, error.kind, error.message, error.run], ['js.error', 'throw', 'TypeError: bad', 'r1']);
  assert.match(error.stack, /^TypeError: bad\n {4}at inner \(app\.js:1:\d+\)\n {4}at api\.on_inbound_message \(app\.js:1:\d+\)$/);
});

test('an error whose getters throw is still reported', async (t) => {
  const harness = await start(t, handler("throw Object.defineProperty({}, 'stack', {get: function () { throw 1; }});"));
  harness.deliver('r1');
  assert.deepEqual([(await harness.next()).kind], ['throw']);
});

test('an object that cannot be serialised is an error, and what stood before and after it goes out', async (t) => {
  const harness = await start(t, handler("var a = {}; a.a = a; api.log_info('before'); api.request('kv.set', a); api.log_info('after');"));
  harness.deliver('r1');
  assert.deepEqual([(await harness.next()).msg, (await harness.next()).msg], ['before', 'after']);
  assert.match((await harness.next()).message, /circular structure/);
});

test('timers of a module end with the run', async (t) => {
  const harness = await start(t, handler("require('timers').setInterval(function () { api.log_info('tick'); }, 1); api.done();"), { modules: ['timers'] });
  harness.deliver('r1');
  assert.equal((await harness.next()).cmd, 'js.done');
  await new Promise((resolve) => setTimeout(resolve, 50));
  harness.deliver('r2');
  assert.deepEqual([(await harness.next()).cmd], ['js.done']);
});

test('a bundle that asks for what it may not have gets null, and a package of Node that is not there refuses when used', async (t) => {
  const harness = await start(t, handler("api.log_info(String(require('fs')) + String(require('./x')) + typeof require('vumigo_v01').dummy_api); api.done();"),
    { modules: ['vumigo_v01'] });
  harness.deliver('r1');
  assert.equal((await harness.next()).msg, 'nullnullobject');
});

test('a package finds out where it is, and its output is a line in the log', async (t) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'jsbox-test-'));
  t.after(() => fs.rmSync(folder, { recursive: true }));
  const modules = path.join(folder, 'node_modules');
  fs.mkdirSync(path.join(modules, 'curious'), { recursive: true });
  fs.writeFileSync(path.join(modules, 'curious', 'index.js'), `
    var tty = require('tty'), os = require('os'), Agent = require('http').Agent;
    class Mine extends Agent {}
    process.stderr.write('warned');
    module.exports = [tty.isatty(process.stderr.fd), os.platform(), typeof Mine, String(process), typeof require('stream').Transform].join();
  `);
  const harness = await start(t, handler("api.log_info(require('curious')); api.done();"), { modules: ['curious'], modules_dir: modules });
  harness.deliver('r1');
  assert.deepEqual(await harness.next(), { cmd: 'js.console', cmd_id: 'h', reply: false, level: 'warning', msg: 'warned', run: 'r1' });
  assert.equal((await harness.next()).msg, 'false,linux,function,[object process],function');
});

test('the process ends when the supervisor is gone', async (t) => {
  const harness = await start(t, handler(''));
  harness.child.stdin.end();
  const [code] = await once(harness.child, 'exit');
  assert.equal(code, 0);
});

test('a process that rests gives back its memory, and no app finds the collector', async (t) => {
  const harness = await start(t, handler(`
    var found = [typeof gc, typeof globalThis.gc, require('lodash').constructor('return typeof gc')()];
    var q = []; for (var i = 0; i < 200000; i++) q.push({i: i});
    api.log_info(found.join()); api.done();`), { modules: ['lodash'] });
  const dirty = () => Number(/Private_Dirty: +(\d+)/.exec(fs.readFileSync(`/proc/${harness.child.pid}/smaps_rollup`, 'utf8'))[1]);
  harness.deliver('r1');
  const log = await harness.next();
  assert.equal(log.msg, 'undefined,undefined,undefined');
  harness.reply(log);
  await harness.next();
  const before = dirty();
  await new Promise((resolve) => setTimeout(resolve, 5500));
  assert.ok(dirty() < before * 0.75, `${before} kB before, ${dirty()} after`);
  harness.deliver('r2');
  assert.equal((await harness.next()).msg, 'undefined,undefined,undefined');
});

test('a process that is used for a while says how much is in its heap', async (t) => {
  const harness = await start(t, handler('api.done();'));
  const heaps = [];
  for (let run = 1; run <= 12; run++) {
    harness.deliver(`r${run}`);
    await harness.next();
    heaps.push(harness.heap);
  }
  assert.equal(heaps[0], 0);
  assert(heaps[11] > 1e6 && heaps[11] < 64e6, heaps[11]);   // of the twelfth run
});

test('the clock can begin at another time, in the app and in its libraries', async (t) => {
  const clock = Date.UTC(2015, 5, 1, 12);
  const harness = await start(t, handler(`
    const day = require('moment')().utc().format('YYYY-MM-DD'), real = new Date(0) instanceof Date && Date.length === 7 && new Date(2015, 5).getMonth() === 5;
    api.log_info([day, new Date().getUTCFullYear(), Date.now() - ${clock} < 60000, Date().includes('2015'), real].join(' ')); api.done();`),
  { clock, modules: ['moment'] });
  harness.deliver('r1');
  assert.equal((await harness.next()).msg, '2015-06-01 2015 true true true');
});

const both = async (harness, count) => {
  const lines = [];
  while (lines.length < count) {
    const line = await harness.next();
    if (line.cmd !== 'js.turn') lines.push(line);
  }
  return lines;
};

test('several runs at a time: what each asks, its timers, its promises and its failures are its own', async (t) => {
  const harness = await start(t, handler(`
    const Q = require('q'), { setTimeout, setInterval, clearInterval } = require('timers'), who = command.msg.who;
    function say(value) {
      api.request('log.info', {msg: who + ' got ' + value + ' ' + (globalThis.seen || 'nothing')}, function () { api.done(); });
    }
    api.request('kv.get', {key: who}, function (reply) {
      Q(reply.value).then(function (value) {
        if (value === 'slow') {
          let open = false;
          const timer = setInterval(function () { if (open) { clearInterval(timer); say(value); } }, 5);
          return api.request('kv.get', {key: 'gate'}, function () { open = true; });
        }
        setTimeout(function () {
          if (value === 'bad') Promise.reject(new Error('of ' + who));
          else say(value);
        }, 5);
      });
    });`), { modules: ['q', 'timers'], messages_in_flight: 3 });
  for (const who of ['a', 'b', 'c']) harness.deliver(`r-${who}`, { who });
  const asked = await both(harness, 3);
  assert.deepEqual(asked.map((line) => [line.run, line.key]), [['r-a', 'a'], ['r-b', 'b'], ['r-c', 'c']]);
  assert.equal(new Set(asked.map((line) => line.cmd_id)).size, 3);
  // All replies in one write: their promises are settled by one queue of Q's, and still belong to the run of each.
  harness.child.stdin.write(asked.map((line, n) => JSON.stringify({ reply: true, cmd: line.cmd, cmd_id: line.cmd_id, run: line.run, success: true,
    value: ['slow', 'bad', 'quick'][n] }) + '\n').join(''));
  const lines = await both(harness, 3);
  const failed = lines.find((line) => line.cmd === 'js.error'), quick = lines.find((line) => line.cmd === 'log.info');
  const gate = lines.find((line) => line.key === 'gate');
  assert.equal(failed.run, 'r-b');
  assert.match(failed.message, /of b/);
  assert.equal(quick.msg, 'c got quick nothing');
  assert.equal(quick.run, 'r-c');
  harness.reply(quick);
  assert.equal((await both(harness, 1))[0].run, 'r-c');
  harness.reply(gate);
  const [slow] = await both(harness, 1);   // the timer of the one that is left outlived the ends of the others
  assert.equal(slow.msg, 'a got slow nothing');
  harness.reply(slow);
  assert.deepEqual(await harness.next(), { cmd: 'js.done', cmd_id: slow.cmd_id * 1 + 1 + '', reply: false, run: 'r-a' });
});

test('what a library prints while a run has its turn is that run\'s', async (t) => {
  const harness = await start(t, handler("require('q')().then(function () { console.log('of ' + command.msg.who); api.done(); });"), { modules: ['q'], messages_in_flight: 2 });
  harness.deliver('r1', { who: 'one' });
  harness.deliver('r2', { who: 'two' });
  const lines = await both(harness, 4);
  assert.deepEqual(lines.filter((line) => line.cmd === 'js.console').map((line) => [line.run, line.msg]).sort(), [['r1', 'of one'], ['r2', 'of two']]);
});
