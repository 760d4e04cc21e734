'use strict';
// The program inside a sandbox: loads one app, gives each run a fresh V8 context, and speaks the wire
// (JSON lines on stdin and stdout, one supervisor at the other end). It is convenience, not a boundary:
// whatever code runs here owns this process, and the jail round it is what holds.
//
// Three realms (JavaScript's word for a set of globals), so that plain mistakes stay small:
//   host     this file and Node itself; lives as long as the process
//   library  the toolkits and the app's node_modules; loaded once, kept between runs (lib/library.js)
//   app      the app's code; made anew for every run and forgotten after it (lib/realm.js)
// Only strings and numbers cross between host and app; functions of the host stay inside closures.

const vm = require('node:vm');
const { readLines, write } = require('./lib/wire');
const { createLibrary } = require('./lib/library');
const { createRealm } = require('./lib/realm');
const { read } = require('./lib/kept');

const { setImmediate: defer, setTimeout: later, process: host } = globalThis;
const parse = JSON.parse, stringify = JSON.stringify;

let settings = null;   // the fields of `initialize`
let config = new Map();
let burst = 0;         // commands of a run that may be answered here (lib/realm.js says which)
let library = null;
let clock = 0;         // ms that the app's clock is ahead of the real one
let script = null;     // the app, compiled once
let broken = null;     // why it could not be compiled
// The runs in hand, {run, realm, flushing} by their names. One of them has its turn: whatever is called until the event loop goes on belongs to it
// (its promises, its ticks: what it does not do by itself, a line for it or a timer of its begins). So runs never share a turn.
const runs = new Map();
let active = null;     // the name of the run whose turn it is, or was last
let told = null;       // the one that the supervisor was told of
let lastRun = null;
let lastId = 0;        // one counter of cmd_ids a process, never reset
let inbox = null;      // lines that wait for a turn of their own, where there may be several runs; else null
let resting = null;    // the timer of `rest`
let collect = null;    // V8's collector, once it was needed
const REST_AFTER = 5000;   // ms without a run
const TURNS = { now: () => active, resume: turnTo };
const early = [];      // console lines from before the first run
const EARLY_MAX = 50;

function line(command) {
  write(stringify(command) + '\n');
}

function turnTo(run) {
  // Told ahead: should the run never give its turn back, this is how the supervisor knows whose it is.
  if (inbox !== null && run !== told && runs.size > 1) {
    told = run;
    line({ cmd: 'js.turn', cmd_id: 'h', reply: false, run });
  }
  active = run;
}

function fail(kind, report) {
  // What a run did wrong, in the words of the realm it happened in. The run is over: the supervisor ends the process.
  const entry = runs.get(active);
  if (entry !== undefined) {
    // What the app asked for before it failed was asked for: the log line before the throw is often the useful one.
    try { write(entry.realm.flush(true)); } catch { /* what cannot be written is the failure itself */ }
    endRun(entry, inbox !== null);
  }
  line({ cmd: 'js.error', cmd_id: 'h', reply: false, run: entry === undefined ? lastRun : entry.run, kind, ...report });
}

function endRun({ run, realm }, keepsTimers = false) {
  lastRun = run;
  runs.delete(run);
  defer(() => { try { realm.forget(); } catch { /* an app may have hardened its globals; then they stay */ } });
  // Q goes on with what waits in its queue, of all runs, by a timer that it sets when something in there throws: it looks like the failed run's.
  if (!keepsTimers) library.clearTimers(run);
  if (resting === null) resting = later(rest, REST_AFTER); else resting.refresh();
}

function rest() {
  // A process that waits gives back what its runs have left: V8 by itself would keep it until it needs it. About 20 ms.
  if (runs.size > 0) return;
  if (collect === null) collect = collector();
  collect({ type: 'major', flavor: 'last-resort' });
}

function collector() {
  // Taken out of a context of its own, now and not at the start: what it needs takes a fifth of that. Contexts that are made later have none.
  const { setFlagsFromString } = require('node:v8');
  setFlagsFromString('--expose-gc');
  const found = vm.runInNewContext('gc');
  setFlagsFromString('--no-expose-gc');
  return found;
}

function describe(error) {
  // An error of any realm as plain strings; its getters may throw, lie or loop over themselves.
  const read = (name) => { try { return `${error[name]}`; } catch { return ''; } };
  let text = '';
  try { text = `${error}`; } catch { text = 'an error that cannot be shown'; }
  const isError = error !== null && typeof error === 'object' && typeof read('stack') === 'string' && read('stack') !== 'undefined';
  return { message: text.slice(0, 4000), stack: isError ? ownFrames(read('stack')).slice(0, 8000) : '' };
}

function ownFrames(stack) {
  // The app's and its libraries' frames; those of this harness and of Node's insides would only puzzle the developer.
  return stack.split('\n').filter((frame) => !frame.includes(__dirname + '/lib/') && !frame.includes(__filename)
    && !frame.includes('(node:') && !frame.includes('at node:') && !frame.includes('jsbox:')).join('\n');
}

function enter(kind, call) {
  try {
    return call();
  } catch (error) {
    fail(kind, describe(error));
    return undefined;
  }
}

function flushSoon(entry) {
  if (entry.flushing) return;
  defer(flush, entry);
  entry.flushing = true;   // after it: an app at the end of its stack gets a RangeError in there, and may go on
}

function flush(entry) {
  entry.flushing = false;
  if (!runs.has(entry.run)) return;
  turnTo(entry.run);
  const mayWait = enter('throw', entry.realm.answerOwn);
  if (mayWait) flushSoon(entry); else writeNow(entry);
}

function writeNow(entry) {
  if (!runs.has(entry.run)) return;
  const text = enter('throw', () => entry.realm.flush());
  if (text) write(text);
  if (runs.has(entry.run) && entry.realm.isOver()) endRun(entry);
}

function say(level, text) {
  // A library's own console. What it says while it is loaded ahead of the first run is told in that run.
  const entry = runs.get(active);
  if (entry !== undefined) entry.realm.console(level, text);
  else if (lastRun === null && early.length < EARLY_MAX) early.push([level, text]);
}

function prepare(command) {
  // A spare process: everything that needs no app.
  library = createLibrary({ modulesDir: '', console: say, kept: read(host.argv[2]), ...TURNS });
  library.preload(command.modules);
  line({ cmd: 'js.ready', cmd_id: 'h', reply: false, run: null });
}

function initialize(command) {
  settings = command;
  inbox = settings.messages_in_flight > 1 ? [] : null;
  clock = typeof settings.clock === 'number' ? settings.clock - Date.now() : 0;
  if (library === null || settings.modules_dir) {
    library = createLibrary({ modulesDir: settings.modules_dir, console: say, kept: read(host.argv[2]), clock, ...TURNS });
  }
  try {
    script = new vm.Script(settings.javascript, { filename: settings.filename });
  } catch (error) {
    broken = describe(error);
  }
  const named = [...settings.javascript.matchAll(/\brequire\s*\(\s*['"]([^'"]+)['"]\s*\)/g)].map(([, name]) => name);
  library.preload(named.filter((name) => settings.modules.includes(name)));
  library.forgetKept();
  line({ cmd: 'js.ready', cmd_id: 'h', reply: false, run: null });
}

function startRun(command, text) {
  const values = config, entry = { run: command.run, realm: null, flushing: false };
  const realm = entry.realm = createRealm({
    run: command.run, nextId: () => ++lastId, flushSoon: () => flushSoon(entry), writeNow: () => writeNow(entry),
    allowed: settings.modules, load: library.load, globals: library.pick(settings.globals),
    configOf: (key) => { const value = values.get(key); return value === undefined ? null : value; }, burst, clock,
  });
  runs.set(command.run, entry);
  turnTo(command.run);
  for (const [level, text] of early.splice(0)) realm.console(level, text);
  if (broken !== null) { fail('load', broken); return; }
  enter('load', () => script.runInContext(realm.context));
  if (runs.has(command.run)) enter('throw', () => realm.deliver(text));
  flushSoon(entry);
}

// The envelope of a reply as the supervisor writes it (protocol.py): whose it is, without parsing the line.
const OF_RUN = /^\{"reply":true,"cmd":"(?:[^"\\]|\\.)*","cmd_id":"(?:[^"\\]|\\.)*","run":"([^"\\]*)"/;

function takeReply(text) {
  const named = inbox === null ? active : (OF_RUN.exec(text) || [])[1], entry = runs.get(named);
  if (entry === undefined) return;
  turnTo(named);
  enter('throw', () => entry.realm.deliver(text));   // the realm checks the run that the line names
}

function take(text) {
  // Replies are by far the most lines: they go to the realm unparsed.
  if (text.startsWith('{"reply":true,')) { takeReply(text); return; }
  const command = parse(text);
  if (command.cmd === 'initialize') initialize(command);
  else if (command.cmd === 'prepare') prepare(command);
  else if (command.cmd === 'config') { config = new Map(Object.entries(command.values)); burst = command.burst; }
  else if (command.cmd === 'exit') host.exit(0);
  else startRun(command, text);
}

function takeNext() {
  take(inbox.shift());
  if (inbox.length > 0) defer(takeNext);
}

readLines((text) => {
  if (inbox === null) take(text);
  else if (inbox.push(text) === 1) defer(takeNext);
}, () => host.exit(0));

host.on('uncaughtException', (error) => fail('throw', describe(error)));
host.on('unhandledRejection', (error) => fail('rejection', describe(error)));

// What an app that reached this realm has no business with. Hygiene only: see the head of this file.
for (const name of ['process', 'require', 'fetch', 'WebSocket', 'EventSource', 'navigator', 'localStorage', 'sessionStorage']) {
  delete globalThis[name];
}
for (const type of [Object, Array, Function, Promise, String, RegExp]) Object.freeze(type.prototype);
